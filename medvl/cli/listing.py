"""Prints what was found, planned and read: tables for people, one document for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from medvl.cli.console import Output, fail
from medvl.cli.options import header_store, model_store
from medvl.dicom.gate import NOT_READABLE, verdict
from medvl.dicom.scan import scan
from medvl.dicom.select import Choice, wanted_studies
from medvl.dicom.severity import cautions
from medvl.dicom.shelves import HeaderCache
from medvl.errors import InputError, ReadingError, SettingsError
from medvl.pipeline.views import PlannedStudy, Wanted, judged_stacks, plan_views
from medvl.prompts import load_prompts
from medvl.records import Scan, Stack, Study
from medvl.report.notes import report_note
from medvl.settings import Settings
from medvl.text import counted

if TYPE_CHECKING:
    from medvl.pipeline.outcome import RunOutcome, StudyOutcome
    from medvl.planning.plan import Plan

_GIB = 2**30
_WIDTH = 80  # of a terminal
_PATHS = {"engine": "by the engine", "stock": "by stock transformers", "cpu": "on the CPU"}


def header_cache(settings: Settings) -> HeaderCache | None:
    """Return where headers are kept between scans; None if they are not to be."""
    return HeaderCache(header_store()) if settings.cache else None


def inspect_paths(paths: Sequence[Path], settings: Settings, said: Output) -> None:
    """List studies, series and stacks with the gate's verdict, what would be read, and why the rest would not.

    Exit status 3 if nothing would be read, 4 if --strict leaves part out, 2 if a series asked for is not there.
    """
    found = scan(paths, cache=header_cache(settings))
    prompts = load_prompts()
    # No picture is made, so any window will do that needs no pixels to be measured on.
    wanted = Wanted(series=settings.series, windows=("40/400",), strict=settings.strict)
    studies = [_inspected(study, wanted, prompts) for study in found.studies]
    document = {"file_count": found.file_count, "studies": studies, "unread": _unread(found)}
    for study in studies:
        _say_study(study, said)
    _say_outside(_unread(found), said)
    try:
        wanted_studies(found, settings.series)
        _check_strictness(studies)
    except (InputError, ReadingError, SettingsError) as error:
        fail(said, str(error), error.exit_status, document)
    said.document(document)


def _check_strictness(studies: Sequence[dict[str, Any]]) -> None:
    """Raise InputError if --strict leaves nothing to read, ReadingError if it leaves part out."""
    chosen = (series for study in studies for series in study["series"] if series["read"])
    stacks = [stack for series in chosen for stack in series["stacks"] if not stack["set_aside"]]
    refused = sum(not stack["read"] for stack in stacks)
    if refused:
        kind = ReadingError if refused < len(stacks) else InputError
        raise kind(
            f"--strict leaves out {refused} of {counted(len(stacks), 'stack')}",
            expected="Stacks without a caution",
            todo="See the notes marked ! above, or leave out --strict",
        )


def plan_paths(paths: Sequence[Path], settings: Settings, said: Output) -> None:
    """Print the plan of every study. Raises InputError, ModelError, SettingsError."""
    from medvl.pipeline.model import choose_model, plan_study, wanted_views
    from medvl.planning.device import another_card, find_device

    found = scan(paths, cache=header_cache(settings))
    asked_for = wanted_studies(found, settings.series)
    model, prompts = choose_model(settings, model_store()), load_prompts()
    device = another_card(settings.memory_bytes) if settings.memory_bytes else find_device()
    documents = []
    for study in asked_for:
        planned = plan_views(study, wanted_views(settings, model.preferences), prompts)
        plan = plan_study(planned, model, settings, device)
        documents.append(_plan_document(planned, plan))
        _say_plan(planned, plan, model.name, device.name, said)
    said.document({"model": model.name, "device": asdict(device), "studies": documents})


def print_outcome(outcome: RunOutcome, said: Output) -> None:
    """Print where the reports are and what was not read."""
    unread = [{"file": file, "reason": reason} for file, reason in outcome.unread]
    said.document(
        {
            "index": str(outcome.index),
            "exit_status": outcome.exit_status,
            "studies": [asdict(study) for study in outcome.studies],
            "unread": unread,
        }
    )
    for study in outcome.studies:
        said.say(f"Study {study.key}: {_outcome_line(study)}")
        if study.status == "partial":
            said.say("  INCOMPLETE: the report lists what was not read and why; run the same command again to resume")
        if study.page:
            said.say(f"  Report: {study.page}")
    _say_outside(unread, said)
    if len(outcome.studies) > 1:
        said.say(f"All reports: {outcome.index}")


def _outcome_line(study: StudyOutcome) -> str:
    if study.status == "failed":
        return f"not read. {study.problem}"
    slices = counted(study.slices_found, "slice")
    if study.status == "nothing":
        return f"none of {slices} read: --strict" if study.slices_found else "nothing in it to read"
    return f"{study.slices_read} of {slices} read, {counted(study.finding_count, 'finding')} to check"


def _say_outside(unread: Sequence[dict[str, str]], said: Output) -> None:
    for reason, files in _by_reason(unread):
        said.say(_wrapped(f"Outside any study: {_files(files, said)} not read: {reason}", 0))


def _inspected(study: Study, wanted: Wanted, prompts: Any) -> dict[str, Any]:
    planned = plan_views(study, wanted, prompts)
    return {
        "key": study.key,
        "patient_key": study.patient.key,
        "date": study.date,
        "description": study.description,
        "series": [_series(choice, planned, wanted) for choice in planned.choices],
        "unread": [{"file": each.source.name, "reason": each.reason} for each in (*study.unread, *planned.unread)],
    }


def _series(choice: Choice, planned: PlannedStudy, wanted: Wanted) -> dict[str, Any]:
    series = choice.series
    chosen = tuple(stack for stack in planned.stacks if stack.series.uid == series.uid)
    stacks = chosen or judged_stacks(planned.study, series)[0]
    views = [view for view in planned.views if view.view.stack.series.uid == series.uid]
    return {
        "uid": series.uid,
        "number": series.number,
        "modality": series.modality,
        "description": series.description,
        "body_part": series.body_part,
        "frame_count": len(series.frames),
        "read": choice.read,
        "reason": choice.reason,
        "prompt": views[0].prompt.id if views else None,
        "prompt_reason": views[0].prompt_reason if views else None,
        "stacks": [
            *(_stack(stack, choice.read and not (wanted.strict and cautions(stack.notes))) for stack in stacks),
            *(
                _stack(each.stack, False, each.reason)
                for each in planned.set_aside
                if each.stack.series.uid == series.uid
            ),
        ],
    }


def _stack(stack: Stack, read: bool, set_aside: str = "") -> dict[str, Any]:
    return {
        "label": stack.label,
        "plane": stack.plane,
        "slice_count": len(stack.slices),
        "slice_spacing_mm": stack.slice_spacing_mm,
        "tilt_degrees": stack.tilt_degrees,
        "gaps": [asdict(gap) for gap in stack.gaps],
        "verdict": verdict(stack),
        "read": read,
        "set_aside": set_aside,
        "notes": [asdict(report_note(note)) for note in stack.notes],
    }


def _say_study(study: dict[str, Any], said: Output) -> None:
    said.say(f"Study {study['key']}  {study['date']}  {study['description']}".rstrip())
    for series in study["series"]:
        chosen = "READ" if series["read"] else "not read"
        facts = (
            series["modality"],
            series["body_part"],
            series["description"],
            counted(series["frame_count"], "frame"),
        )
        title = " · ".join(filter(None, facts))
        name = _series_name(series["number"]).capitalize()
        said.say(_wrapped(f"{name}: {title} · {chosen}: {series['reason']}", 2))
        for stack in series["stacks"]:
            _say_stack(stack, series["read"], said)
        if series["prompt"]:
            said.say(_wrapped(f"prompt {series['prompt']}: {series['prompt_reason']}", 4))
        if said.verbose:
            said.say(f"    {series['uid']}")
    for reason, files in _by_reason(study["unread"]):
        said.say(_wrapped(f"{_files(files, said)} not read: {reason}", 2))


def _say_stack(stack: dict[str, Any], chosen: bool, said: Output) -> None:
    judged = f"{stack['verdict']}, not read (--strict)" if chosen and not stack["read"] else stack["verdict"]
    judged = "not read" if stack["set_aside"] else judged
    said.say(f"    {_stack_line(stack):<32} {judged}")
    if told := stack["set_aside"] or stack["label"]:
        said.say(_wrapped(told, 6))
    for note in stack["notes"]:
        if note["code"] not in NOT_READABLE:  # said of the series already
            mark = "!" if note["severity"] == "caution" else "-"
            said.say(_wrapped(f"{mark} {note['text']} → {note['action']}", 6))


def _wrapped(text: str, indent: int) -> str:
    return fill(
        text,
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _stack_line(stack: dict[str, Any]) -> str:
    spacing = stack["slice_spacing_mm"]
    every = f" every {round(spacing, 2):g} mm" if spacing else ""
    return f"{stack['plane']}, {counted(stack['slice_count'], 'slice')}{every}"


def _series_name(number: int | None) -> str:
    return "series without number" if number is None else f"series {number}"


def _plan_document(planned: PlannedStudy, plan: Plan) -> dict[str, Any]:
    views = [
        {
            "series_uid": each.view.stack.series.uid,
            "window": each.view.name,
            "prompt": each.prompt.id,
            "slice_count": len(each.view.stack.slices),
            "picture_count": len(each.view.slabs),
            "size_px": each.view.rendering.size_px,
        }
        for each in planned.views
    ]
    memory = {**asdict(plan.memory), "peak_bytes": plan.memory.peak_bytes}
    return {"key": planned.study.key, "views": views, **asdict(plan), "memory": memory}


def _say_plan(planned: PlannedStudy, plan: Plan, model: str, device: str, said: Output) -> None:
    said.say(f"Study {planned.study.key} with {model} on {device}")
    for each in planned.views:
        view = each.view
        said.say(
            f"  {view.stack.series.modality} {_series_name(view.stack.series.number)}, {view.name}: "
            f"{counted(len(view.stack.slices), 'slice')} in {counted(len(view.slabs), 'picture')} "
            f"of {view.rendering.size_px}², "
            f"prompt {each.prompt.id} ({each.prompt_reason})"
        )
    said.say(f"  {plan.precision} ({plan.precision_reason})")
    said.say(
        f"  {counted(plan.chunk_count, 'chunk')} of {counted(plan.chunk_length, 'picture')}, overlap {plan.overlap}, "
        f"{plan.batch} at once, {_PATHS[plan.path]}; "
        f"{plan.tokens_per_chunk:,} tokens a chunk, {plan.token_count:,} in all"
    )
    said.say(f"  peak memory {_memory_line(plan)}")
    if plan.look_tokens:
        said.say(
            f"  second look: {plan.look_tokens:,} tokens and about {plan.look_seconds:.2g} s more for each finding; "
            "--second-look off goes without"
        )
    if plan.fits:
        said.say(f"  about {_duration(plan.seconds)}, an estimate")
    else:
        said.say(f"  DOES NOT FIT. {plan.advice}")


def _memory_line(plan: Plan) -> str:
    memory = plan.memory
    parts = {
        "weights": memory.weights_bytes,
        "keys and values": memory.cache_bytes,
        "encoded pictures": memory.picture_bytes,
        "activations": memory.activation_bytes,
        "rest": memory.logits_bytes + memory.workspace_bytes + memory.context_bytes,
    }
    shown = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in parts.items() if size)
    return f"{memory.peak_bytes / _GIB:.1f} of {plan.available_bytes / _GIB:.1f} GiB: {shown}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _unread(found: Scan) -> list[dict[str, str]]:
    return [{"file": each.source.name, "reason": each.reason} for each in found.unread]


def _by_reason(unread: Sequence[dict[str, str]]) -> Iterator[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for each in unread:
        groups.setdefault(each["reason"], []).append(each["file"])
    yield from groups.items()


def _files(files: Sequence[str], said: Output) -> str:
    if said.verbose or len(files) == 1:
        return ", ".join(files)
    return counted(len(files), "file")
