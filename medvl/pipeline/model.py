"""Chooses the model and plans its work: checkpoint, preferences, precision, chunk length, memory. Loads nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medvl.errors import SettingsError
from medvl.pipeline.showing import prompt_text
from medvl.pipeline.views import DEFAULT_SIZE_PX, PlannedStudy, Wanted
from medvl.planning.device import Device
from medvl.planning.plan import Plan, Wishes, Workload, plan_reading
from medvl.planning.shape import ModelShape
from medvl.planning.tokens import TokenCounter
from medvl.reader.checkpoint import Preferences, read_preferences
from medvl.reader.identity import Sampling
from medvl.reader.weights import ModelLocation, find_model, find_shape
from medvl.settings import Settings

DEFAULT_NEW_TOKENS = 1024  # eight findings in full
_PICTURE_MARKS = 2  # vision start and end
_CHAT_MARKS = 12  # turns around the question


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model as asked for, whether or not its weights are on this machine."""

    name: str
    location: ModelLocation | None
    shape: ModelShape
    preferences: Preferences
    sampling: Sampling
    max_new_tokens: int
    chunk: int | None  # pictures; None leaves the choice to the plan


def choose_model(settings: Settings, store: Path) -> ModelChoice:
    """Find the model's dimensions and what it prefers.

    Raises ModelError if nothing is known of it, SettingsError for an impossible --chunk.
    """
    location = find_model(settings.model, store)
    preferences = read_preferences(location.folder) if location else Preferences()
    return ModelChoice(
        name=location.name if location else settings.model,
        location=location,
        shape=find_shape(settings.model, store),
        preferences=preferences,
        sampling=Sampling(settings.temperature),
        max_new_tokens=settings.max_new_tokens or preferences.max_new_tokens or DEFAULT_NEW_TOKENS,
        chunk=_chunk_length(settings.chunk) or _chunk_length(preferences.chunk),
    )


def wanted_views(settings: Settings, preferences: Preferences) -> Wanted:
    """Fill in what the user left open: first as the model prefers, then medvl's defaults. Raises SettingsError."""
    return Wanted(
        series=settings.series,
        windows=settings.windows if settings.windows != ("auto",) else preferences.windows or ("auto",),
        size_px=settings.size_px or preferences.size_px or DEFAULT_SIZE_PX,
        slab=settings.slab or preferences.slab or "auto",
        prompt=settings.prompt or preferences.prompt,
        language=settings.language,
        strict=settings.strict,
    )


def plan_study(
    planned: PlannedStudy, model: ModelChoice, settings: Settings, device: Device, trouble: str = ""
) -> Plan:
    """Plan one study's reading. trouble: why 8-bit weights cannot be loaded here, once that is known."""
    counter = TokenCounter(model.location.folder if model.location else None)
    work = _workload(planned, model, counter)
    wishes = Wishes(settings.precision, model.chunk, settings.batch, settings.decode, trouble)
    return plan_reading(model.shape, device, work, wishes, settings.memory_bytes)


def _workload(planned: PlannedStudy, model: ModelChoice, counter: TokenCounter) -> Workload:
    texts = [prompt_text(view, view.view.slabs[:1]) for view in planned.views]
    size_px = max((view.view.rendering.size_px for view in planned.views), default=DEFAULT_SIZE_PX)
    return Workload(
        view_slab_counts=tuple(len(view.view.slabs) for view in planned.views),
        size_px=size_px,
        text_tokens=_CHAT_MARKS + _most(counter, (text.instruction + text.query for text in texts)),
        label_tokens=_PICTURE_MARKS + _most(counter, (text.labels[0] for text in texts)),
        new_tokens=model.max_new_tokens,
    )


def _most(counter: TokenCounter, texts: Iterable[str]) -> int:
    return max((counter.count(text) for text in texts), default=0)


def _chunk_length(wish: str | None) -> int | None:
    if wish in (None, "auto"):
        return None
    try:
        length = int(str(wish))
    except ValueError:
        length = 0
    if not 1 <= length <= 256:
        raise SettingsError(
            f'A chunk of "{wish}" was asked for',
            expected="auto, or a number of pictures from 1 to 256",
            todo="Choose for instance --chunk 10",
        )
    return length
