"""From a study to what will be looked at: which series, with which prompt, through which windows, in which slabs.

Decides from headers; only a percentile window needs pixels. Knows no model and no reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from medvl.dicom.gate import note_stacks
from medvl.dicom.geometry import auto_slab_mm, slabs, stack_series
from medvl.dicom.scan import unread_frames
from medvl.dicom.select import Choice, KernelWish, select_series, stack_left_out
from medvl.dicom.severity import cautions
from medvl.dicom.stack_window import header_window, measured_window, uptake_window
from medvl.dicom.window import parse_windows
from medvl.errors import SettingsError, WindowError
from medvl.planning.chunks import overlap_for, plan_chunks
from medvl.prompts import Prompt, Prompts, choose_prompt, load_prompt
from medvl.records import Rendering, Series, Stack, Study, Unread, View, Window
from medvl.report.notes import note_text
from medvl.report.words import words_of
from medvl.settings import Language

DEFAULT_SIZE_PX = 512
MAX_SIZE_PX = 2048
_KEPT_HERE = (
    "not sent to a server elsewhere: its pictures may show who the patient is, says (0028,0301) Burned In Annotation"
)
_WINDOWS_OF_THE_STACK = ("auto", "header", "percentile", "suv")  # numbers come from the slices themselves
# Where a prompt names no window. MR values have no scale, and each slice's header may name a window of its own.
_OWN_WINDOWS = {"MR": "percentile", "PT": "suv"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to look, with the checkpoint's preferences already filled in."""

    series: tuple[str, ...] = ("auto",)
    windows: tuple[str, ...] = ("auto",)
    size_px: int = DEFAULT_SIZE_PX
    slab: str = "auto"
    prompt: str | None = None
    language: Language = "en"
    strict: bool = False  # leave out every stack with a caution
    leaves_machine: bool = False  # pictures go elsewhere, so that names in their pixels must not

    def __post_init__(self) -> None:
        if self.size_px % 32 or not 32 <= self.size_px <= MAX_SIZE_PX:
            raise SettingsError(
                f"A picture size of {self.size_px} was asked for",
                expected=f"Sizes are multiples of 32 from 32 to {MAX_SIZE_PX}, since one vision token is 32 × 32 px",
                todo="Choose for instance --size 512",
            )
        _check_windows(self.windows)


@dataclass(frozen=True, slots=True)
class PlannedView:
    """A view, the prompt it is read with, and why that one."""

    view: View
    prompt: Prompt
    prompt_reason: str
    slab_mm: float | None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A stack of a chosen series that is not among those to read, and why."""

    stack: Stack
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """One study, ready to be read."""

    study: Study
    choices: tuple[Choice, ...]
    stacks: tuple[Stack, ...]
    views: tuple[PlannedView, ...]
    unread: tuple[Unread, ...]  # frames of chosen series that have no place in a stack
    refused: tuple[Unread, ...] = ()  # slices of stacks that --strict leaves out
    kept_here: tuple[Unread, ...] = ()  # slices that no server is shown, since they may name the patient
    set_aside: tuple[SetAside, ...] = ()  # other stacks of chosen series

    @property
    def slice_count(self) -> int:
        """Slices in all stacks, each counted once."""
        return sum(len(stack.slices) for stack in self.stacks)


def plan_views(study: Study, wanted: Wanted, prompts: Prompts) -> PlannedStudy:
    """Choose series, prompts, windows and slabs for one study; chunks are cut later, when the memory is known.

    Raises SettingsError if a series, window or prompt that was asked for does not exist.
    """

    def kernel_for(series: Series) -> KernelWish:
        return _prompt_for(study, series, wanted, prompts)[0].kernel

    choices = select_series(study, wanted.series, kernel_for)
    stacks: list[Stack] = []
    views: list[PlannedView] = []
    unread: list[Unread] = []
    refused: list[Unread] = []
    kept_here: list[Unread] = []
    set_aside: list[SetAside] = []
    for choice in choices:
        if choice.read:
            found, left_out = judged_stacks(study, choice.series)
            unread += left_out
            several = len(found) > 1
            for i, stack in enumerate(found):
                if reason := stack_left_out(stack, wanted.series):
                    set_aside.append(SetAside(stack, f"{reason}; --series {stack.series.uid} reads all"))
                    continue
                stacks.append(stack)
                if wanted.leaves_machine and stack.series.burned_in_annotation:
                    kept_here += unread_frames((each.frame for each in stack.slices), _KEPT_HERE, stack.series.uid)
                    continue
                if wanted.strict and cautions(stack.notes):
                    refused += _refused(stack)
                    continue
                name = f"{_stack_name(i, stack)}, " if several else ""  # a view's name tells its stack, too
                views += _views_of(study, stack, name, wanted, prompts)
    return PlannedStudy(
        study,
        choices,
        tuple(stacks),
        tuple(views),
        tuple(unread),
        refused=tuple(refused),
        kept_here=tuple(kept_here),
        set_aside=tuple(set_aside),
    )


def judged_stacks(study: Study, series: Series) -> tuple[tuple[Stack, ...], tuple[Unread, ...]]:
    """Put the frames of a series in order and note what is unusual; also return the frames left out."""
    stacks, left_out = stack_series(series)
    return note_stacks(series, stacks, left_out, study.unread), left_out


def _refused(stack: Stack) -> Iterator[Unread]:
    words = words_of("en")
    reason = f"--strict: {'; '.join(note_text(note, words) for note in cautions(stack.notes))}"
    return unread_frames((each.frame for each in stack.slices), reason, stack.series.uid)


def _stack_name(index: int, stack: Stack) -> str:
    return f"stack {index + 1} ({stack.label})" if stack.label else f"stack {index + 1}"


def cut_chunks(planned: PlannedStudy, length: int) -> PlannedStudy:
    """Return the study with every view cut into chunks of at most `length` slabs."""
    overlap = overlap_for(length)
    views = tuple(
        replace(each, view=replace(each.view, chunks=plan_chunks(each.view.slabs, length=length, overlap=overlap)))
        for each in planned.views
    )
    return replace(planned, views=views)


def _views_of(study: Study, stack: Stack, name: str, wanted: Wanted, prompts: Prompts) -> list[PlannedView]:
    prompt, reason = _prompt_for(study, stack.series, wanted, prompts)
    slab_mm = _slab_mm(wanted.slab, stack)
    cut = slabs(stack, slab_mm)
    names = _own_windows(prompt, stack) if wanted.windows == ("auto",) else wanted.windows
    renderings = {tuple(w.label for w in r.windows): r for r in (_rendering(n, stack, wanted.size_px) for n in names)}
    return [
        PlannedView(View(stack, rendering, cut, (), name + _view_name(rendering)), prompt, reason, slab_mm)
        for rendering in renderings.values()
    ]


def _own_windows(prompt: Prompt, stack: Stack) -> tuple[str, ...]:
    named = prompt.windows or ("header",)
    return (_OWN_WINDOWS.get(stack.series.modality, "header"),) if named == ("header",) else named


def _prompt_for(study: Study, series: Series, wanted: Wanted, prompts: Prompts) -> tuple[Prompt, str]:
    if wanted.prompt:
        return load_prompt(wanted.prompt, wanted.language), "as asked with --prompt or by the model"
    descriptions = (series.description, series.protocol, study.description)
    return choose_prompt(prompts, series.modality, series.body_part, descriptions, wanted.language)


def _check_windows(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in _WINDOWS_OF_THE_STACK:
            try:
                parse_windows(name)
            except WindowError as error:  # the user's own numbers, not a header's
                raise SettingsError(error.found, expected=error.expected, todo=error.todo) from error


def _rendering(name: str, stack: Stack, size_px: int) -> Rendering:
    return Rendering(windows=_windows(name, stack), size_px=size_px)


def _windows(name: str, stack: Stack) -> tuple[Window, ...]:
    """Presets speak of HU. Where values are something else, the modality's own window stands in, or the header's."""
    if name not in _WINDOWS_OF_THE_STACK:
        windows = parse_windows(name)
        if not windows[0].name or stack.slices[0].frame.rescale_unit == "HU":
            return windows
        name = _OWN_WINDOWS.get(stack.series.modality, "header")
    if name == "suv":
        return (uptake_window(stack) or measured_window(stack),)
    own = header_window(stack) if name != "percentile" else None
    return (replace(own, name="header") if own else measured_window(stack),)


def _view_name(rendering: Rendering) -> str:
    if len(rendering.windows) > 1:
        return "rgb"
    window = rendering.windows[0]
    return window.name or window.label


def _slab_mm(wish: str, stack: Stack) -> float | None:
    if wish == "auto":
        return auto_slab_mm(stack)
    if wish == "off":
        return None
    try:
        thickness = float(wish)
    except ValueError:
        thickness = 0.0
    if not 0 < thickness <= 100:
        raise SettingsError(
            f'A slab of "{wish}" was asked for',
            expected="A slab is auto, off, or a thickness in millimetres up to 100",
            todo="Choose for instance --slab 3",
        )
    return thickness
