"""From chunk readings to the report: parse, merge, conclude, account for every frame, pick the pictures.

Everything here can be done again from the ledger and the pixels, without a model.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medvl.dicom.frames import FrameError
from medvl.dicom.grey import picture_geometry, render
from medvl.dicom.select import Choice
from medvl.errors import ModelError
from medvl.findings.impression import describe_findings, parse_impression, plain_impression
from medvl.findings.measure import Silhouette
from medvl.findings.merge import merge_findings
from medvl.findings.parse import ChunkContext, parse_reply
from medvl.findings.schema import BOX_UNITS, impression_schema
from medvl.findings.second_look import is_contradicted
from medvl.pipeline.closer import find_spot
from medvl.pipeline.reading import ChunkReading, FrameKey, StudyReader, frame_key
from medvl.pipeline.scenes import scene_of, series_name
from medvl.pipeline.showing import slab_position_mm
from medvl.pipeline.views import PlannedStudy, PlannedView
from medvl.prompts import ImpressionFacts, Prompt
from medvl.records import Finding, Frame, ParsedReply, Sentence, Stack, Unread
from medvl.report.document import (
    Impression,
    KeyImage,
    ReadIn,
    SeriesReport,
    SliceFate,
    UnreadFile,
    ViewReport,
)
from medvl.report.images import contact_sheet, encode_image
from medvl.report.notes import report_note
from medvl.report.words import words_of
from medvl.settings import Language
from medvl.text import counted

NOT_REACHED = "not reached yet: the run ended before"
_MAX_KEY_IMAGES = 24
_SHEET_PICTURES = 12
_SHEET_COLUMNS = 6


@dataclass(frozen=True, slots=True)
class ViewReadings:
    """All readings of one view in the order of their slabs, with what each reply said."""

    planned: PlannedView
    readings: tuple[ChunkReading, ...]
    replies: tuple[ParsedReply | None, ...]

    @property
    def understood(self) -> tuple[tuple[int, ChunkReading], ...]:
        """Number and reading of every chunk whose reply can be used."""
        pairs = zip(self.readings, self.replies, strict=True)
        return tuple((i, reading) for i, (reading, reply) in enumerate(pairs) if reply and reply.usable)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The pictures of a report: what the document says of them, and their bytes by file name."""

    key_images: tuple[KeyImage, ...]
    sheets: Mapping[int, str]  # by position of the view in the study
    files: Mapping[str, bytes]


def gather_views(planned: PlannedStudy, readings: Sequence[ChunkReading]) -> tuple[ViewReadings, ...]:
    """Group readings by view and order them along the stack, whatever order they were read in; parse each reply."""
    gathered = []
    for view in planned.views:
        own = [reading for reading in readings if reading.planned.view is view.view]
        own.sort(key=lambda reading: (reading.chunk.slabs[0].number, len(reading.chunk.slabs)))
        numbered = [replace(each, chunk=replace(each.chunk, index=i)) for i, each in enumerate(own)]
        gathered.append(ViewReadings(view, tuple(numbered), tuple(_parse(each) for each in numbered)))
    return tuple(gathered)


def count_findings(reading: ChunkReading) -> int:
    """Count the findings of one chunk, for the progress line."""
    reply = _parse(reading)
    return len(reply.findings) if reply else 0


def conclude(views: Sequence[ViewReadings]) -> tuple[Finding, ...]:
    """Merge the findings of all chunks and views; probabilities are rounded to what two runs can agree on."""
    replies = (reply for view in views for reply in view.replies if reply and reply.usable)
    scenes = (scene_of(view.planned, view.understood) for view in views)
    merged = merge_findings((finding for reply in replies for finding in reply.findings), scenes)
    return tuple(
        replace(each, confidence=_rounded(each.confidence), wording_probability=_rounded(each.wording_probability))
        for each in merged
    )


def write_impression(
    findings: Sequence[Finding],
    reader: StudyReader | None,
    prompt: Prompt,
    counts: tuple[int, int],
    language: Language,
) -> Impression:
    """Have the model write the impression from the merged list; fall back to a plain one, and say so.

    reader: None where the model must not be asked, such as after an interrupt. counts: slices read, slices found.
    While other findings stand, nothing is concluded from those that the second look contradicts; a sentence of their
    own names them, so that none vanishes.
    """
    doubted = [finding for finding in findings if is_contradicted(finding)]
    standing = findings[: len(findings) - len(doubted)] or findings
    written = _conclude_from(standing, reader, prompt, counts, language)
    if not doubted:
        return written
    return replace(written, sentences=(*written.sentences, _doubt(doubted, language)))


def _doubt(doubted: Sequence[Finding], language: Language) -> Sentence:
    """Name the findings that the second look contradicts."""
    words = words_of(language)
    names = words("impression.separator").join(
        words("impression.doubted_one", number=finding.number, observation=finding.observation) for finding in doubted
    )
    return Sentence(words("impression.doubted", names=names), tuple(finding.number for finding in doubted))


def _conclude_from(
    findings: Sequence[Finding],
    reader: StudyReader | None,
    prompt: Prompt,
    counts: tuple[int, int],
    language: Language,
) -> Impression:
    plain = plain_impression(findings, *counts, language)
    if not findings or reader is None:
        return Impression(plain, "template")
    text = prompt.render(ImpressionFacts(describe_findings(findings, language), len(findings), *counts))
    try:
        entry = reader.ask(text, impression_schema(len(findings)), "impression")
    except ModelError as error:
        return Impression(plain, "template", f"The model could not be asked: {error}")
    sentences = parse_impression(entry.reading.text, findings)
    if sentences is None:
        return Impression(
            plain, "template", "The model's own impression could not be used: unreadable, or against its findings."
        )
    told = {number for sentence in sentences for number in sentence.findings}
    untold = [finding for finding in findings if finding.number not in told]
    rest = plain_impression(untold, *counts, language) if untold else plain
    unread = tuple(each for each in rest if untold or not each.findings)  # never left to the model
    note = "Sentences were added for findings of which the model said nothing that agrees with them." if untold else ""
    return Impression(sentences + unread, "model", note)


# --- coverage ----------------------------------------------------------------------------------------------------


def report_series(
    planned: PlannedStudy, views: Sequence[ViewReadings], sheets: Mapping[int, str]
) -> tuple[SeriesReport, ...]:
    """Account for every frame of every series: read where, or not read and why.

    A series that holds several stacks is reported once for each, since slices are numbered in their stack; frames
    outside every stack come with the first.
    """
    left_out = {_unread_key(each): each.reason for each in (*planned.unread, *planned.refused, *planned.kept_here)}
    reasons = _frames_failed(views) | left_out
    read = _frames_read(views)
    reports = []
    for choice in planned.choices:
        stacks, said = _stacks_of(planned, choice)
        placed = {frame_key(each.frame) for stack in stacks for each in stack.slices}
        outside = [frame for frame in choice.series.frames if frame_key(frame) not in placed]
        for i, stack in enumerate(stacks or [None]):
            frames = [each.frame for each in stack.slices] if stack else []
            fates = _fates([*frames, *(outside if i == 0 else [])], stack, read, reasons, said[i])
            own = {i: view for i, view in enumerate(views) if view.planned.view.stack is stack}
            reports.append(_series_report(said[i], stack, fates, own, sheets))
    return tuple(reports)


def _stacks_of(planned: PlannedStudy, choice: Choice) -> tuple[list[Stack], list[Choice]]:
    """List the stacks of a series, those to read first, with what is said of each; a series without: what of it."""
    stacks = [stack for stack in planned.stacks if stack.series.uid == choice.series.uid]
    said = [replace(choice, reason=": ".join(filter(None, (stack.label, choice.reason)))) for stack in stacks]
    aside = [each for each in planned.set_aside if each.stack.series.uid == choice.series.uid]
    stacks += [each.stack for each in aside]
    said += [replace(choice, read=False, reason=each.reason) for each in aside]
    return stacks, said or [choice]


def unread_files(planned: PlannedStudy) -> tuple[UnreadFile, ...]:
    """List the study's files that hold nothing to read, and those that are lost."""
    return tuple(
        UnreadFile(each.source.name, each.reason, each.series_uid, each.frame_count, each.lost)
        for each in planned.study.unread
    )


def study_warnings(planned: PlannedStudy, views: Sequence[ViewReadings]) -> tuple[str, ...]:
    """Say what a reader of the report must know before anything else.

    Replies that ended at the token cap, phases left out, identity in the pixels.
    """
    entries = [reading.entry for view in views for reading in view.readings if reading.entry]
    cut = sum(not entry.reading.complete for entry in entries)
    warnings = []
    if cut:
        warnings.append(
            f"{cut} of {len(entries)} replies ended at the token cap: findings may be missing there; "
            "read again with a larger --max-new-tokens"
        )
    for series in (choice.series for choice in planned.choices if choice.read):
        name = series_name(series)
        left_out = sum(each.series_uid == series.uid for each in planned.unread)
        if left_out:
            frames = counted(left_out, "frame")
            warnings.append(f"{frames} of {name} at positions already taken: not read, and perhaps another phase")
        refused = sum(each.series_uid == series.uid for each in planned.refused)
        if refused:
            warnings.append(f"{counted(refused, 'slice')} of {name} not read: --strict reads no stack with a caution")
        if series.burned_in_annotation:
            kept_here = any(each.series_uid == series.uid for each in planned.kept_here)
            so = "so none was sent to the server" if kept_here else "and --deidentify leaves pixels as they are"
            warnings.append(
                f"{name} has (0028,0301) Burned In Annotation: its pictures may show who the patient is, {so}"
            )
    return tuple(warnings)


def count_slices(planned: PlannedStudy, series: Sequence[SeriesReport]) -> tuple[int, int]:
    """Count the slices read and the slices found in the series that were chosen.

    Frames at the place of another were left out on purpose and do not count; damaged files do, unless they belong to
    a series that was not chosen.
    """
    fates = [fate for each in series if each.chosen for fate in each.slices if fate.slice is not None]
    left_out = {each.uid for each in series} - {each.uid for each in series if each.chosen}
    lost = sum(each.frame_count for each in planned.study.unread if each.lost and each.series_uid not in left_out)
    return sum(1 for fate in fates if fate.read_in), len(fates) + lost


def _frames_read(views: Sequence[ViewReadings]) -> dict[FrameKey, list[ReadIn]]:
    read: dict[FrameKey, list[ReadIn]] = defaultdict(list)
    for view in views:
        for number, reading in view.understood:
            for slab in reading.shown:
                for each in slab.slices:
                    place = ReadIn(view.planned.view.name, number, slab.number, len(slab.slices))
                    read[frame_key(each.frame)].append(place)
    return read


def _frames_failed(views: Sequence[ViewReadings]) -> dict[FrameKey, str]:
    failed: dict[FrameKey, str] = {}
    for view in views:
        for reading, reply in zip(view.readings, view.replies, strict=True):
            reason = reading.failure or (
                "the model's reply could not be understood" if reply and not reply.usable else ""
            )
            for slab in reading.chunk.slabs if reason else ():
                failed.update({frame_key(each.frame): reason for each in slab.slices})
            failed.update({frame_key(each.frame): why for each, why in reading.unread})
    return failed


def _unread_key(unread: Unread) -> FrameKey:
    return str(unread.source.path), unread.source.member or "", unread.frame_index


def _fates(
    frames: Sequence[Frame],
    stack: Stack | None,
    read: Mapping[FrameKey, list[ReadIn]],
    reasons: Mapping[FrameKey, str],
    choice: Choice,
) -> tuple[SliceFate, ...]:
    places = {frame_key(each.frame): each for each in stack.slices} if stack else {}
    not_chosen = "" if choice.read else choice.reason
    fates = []
    for frame in frames:
        key = frame_key(frame)
        place, read_in = places.get(key), tuple(read.get(key, ()))
        fates.append(
            SliceFate(
                file=frame.source.name,
                sop_instance_uid=frame.sop_instance_uid,
                frame_index=frame.index,
                slice=place.number if place else None,
                position_mm=_millimetres(place.distance_mm) if place and frame.plane else None,
                read_in=read_in,
                not_read_because="" if read_in else reasons.get(key) or not_chosen or NOT_REACHED,
            )
        )
    return tuple(sorted(fates, key=lambda fate: (fate.slice is None, fate.slice or 0, fate.file)))


def _series_report(
    choice: Choice,
    stack: Stack | None,
    fates: tuple[SliceFate, ...],
    views: Mapping[int, ViewReadings],
    sheets: Mapping[int, str],
) -> SeriesReport:
    series = choice.series
    first = stack.slices[0].frame if stack else series.frames[0]
    return SeriesReport(
        uid=series.uid,
        number=series.number,
        modality=series.modality,
        description=series.description,
        body_part=series.body_part,
        plane=stack.plane if stack else None,
        rows=first.rows,
        columns=first.columns,
        frame_count=len(fates),
        slice_spacing_mm=stack.slice_spacing_mm if stack else None,
        slice_thickness_mm=first.slice_thickness_mm,
        pixel_spacing_mm=first.pixel_spacing_mm,
        chosen=choice.read,
        reason=choice.reason,
        notes=tuple(report_note(note) for note in stack.notes) if stack else (),
        views=tuple(_view_report(view, sheets.get(i, "")) for i, view in views.items()),
        slices=fates,
    )


def _view_report(view: ViewReadings, sheet: str) -> ViewReport:
    planned, stack = view.planned, view.planned.view.stack
    problems = [
        f"chunk {i + 1}: {text}"
        for i, (reading, reply) in enumerate(zip(view.readings, view.replies, strict=True))
        for text in (*([reading.failure] if reading.failure else []), *(reply.problems if reply else ()))
    ]
    geometry = picture_geometry(stack.turn, stack.slices[0].frame, planned.view.rendering.size_px)
    return ViewReport(
        name=planned.view.name,
        windows=tuple(window.label for window in planned.view.rendering.windows),
        size_px=planned.view.rendering.size_px,
        mm_per_px=geometry.mm_per_px,
        slab_count=len(planned.view.slabs),
        slab_mm=planned.slab_mm,
        chunk_count=max(len(planned.view.chunks), len(view.readings)),
        chunks_read=len(view.understood),
        prompt=planned.prompt.id,
        prompt_digest=planned.prompt.digest,
        prompt_reason=planned.prompt_reason,
        contact_sheet=sheet,
        problems=tuple(problems),
    )


# --- pictures ----------------------------------------------------------------------------------------------------


def gather_evidence(planned: PlannedStudy, findings: Sequence[Finding]) -> Evidence:
    """Render a key image for each finding and a contact sheet for each view."""
    files: dict[str, bytes] = {}
    key_images, sheets = [], {}
    for finding in findings[:_MAX_KEY_IMAGES]:
        image = _key_image(planned, finding, files)
        if image:
            key_images.append(image)
    for i, view in enumerate(planned.views):
        sheet = _contact_sheet(view)
        if sheet:
            sheets[i] = f"sheet-{i + 1}-{hashlib.sha256(sheet).hexdigest()[:8]}.webp"
            files[sheets[i]] = sheet
    return Evidence(tuple(key_images), sheets, files)


def _key_image(planned: PlannedStudy, finding: Finding, files: dict[str, bytes]) -> KeyImage | None:
    spot = find_spot(planned, finding)
    view, slab = spot.planned, spot.slab
    try:
        picture = render(slab, view.view.rendering, view.view.stack.turn)
    except FrameError:
        return None
    content = encode_image(picture.grey)
    # The digest keeps an older report, still on disk after a crash, from showing a newer picture.
    name = f"finding-{finding.number}-{hashlib.sha256(content).hexdigest()[:8]}.webp"
    files[name] = content
    box = finding.box
    return KeyImage(
        finding=finding.number,
        file=name,
        window=", ".join(window.label for window in view.view.rendering.windows),
        slice=finding.key_slice,
        position_mm=_millimetres(slab_position_mm(slab)) if view.view.stack.slice_spacing_mm else None,
        box=(box.x1 / BOX_UNITS, box.y1 / BOX_UNITS, box.x2 / BOX_UNITS, box.y2 / BOX_UNITS),
    )


def _contact_sheet(view: PlannedView) -> bytes | None:
    slabs = view.view.slabs
    count = min(len(slabs), _SHEET_PICTURES)
    chosen = [slabs[(2 * i + 1) * len(slabs) // (2 * count)] for i in range(count)]
    pictures, labels = [], []
    for slab in chosen:
        try:
            pictures.append(render(slab, view.view.rendering, view.view.stack.turn).grey)
        except FrameError:  # said in the coverage
            continue
        labels.append(str(slab.middle.number))
    return encode_image(contact_sheet(pictures, labels, _SHEET_COLUMNS)) if pictures else None


# --- replies -----------------------------------------------------------------------------------------------------


def _parse(reading: ChunkReading) -> ParsedReply | None:
    entry = reading.entry
    if entry is None:
        return None
    view, shown = reading.planned.view, reading.shown
    size_px = view.rendering.size_px
    context = ChunkContext(
        stack=view.stack,
        view=view.name,
        chunk=replace(reading.chunk, slabs=shown),
        geometries=tuple(picture_geometry(view.stack.turn, slab.middle.frame, size_px) for slab in shown),
        silhouettes=tuple(each and Silhouette(*each) for each in entry.silhouettes),
    )
    return parse_reply(entry.reading.text, entry.reading.tokens, context)


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def _millimetres(value: float) -> float:
    return round(value, 3)
