"""Chooses the model and plans its work: checkpoint, preferences, precision, chunk length, memory. Loads nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from medvl.errors import ModelError, SettingsError
from medvl.pipeline.closer import LOOK_PICTURES
from medvl.pipeline.looking import LOOK_PROMPT, Manner
from medvl.pipeline.showing import prompt_text
from medvl.pipeline.views import DEFAULT_SIZE_PX, MAX_SIZE_PX, PlannedStudy, Wanted
from medvl.planning.device import Device
from medvl.planning.plan import Plan, Wishes, Workload, plan_reading
from medvl.planning.shape import ModelShape
from medvl.planning.tokens import TokenCounter
from medvl.prompts import LookFacts, load_prompt
from medvl.reader.checkpoint import PREFERENCES_FILE, Preferences, read_preferences
from medvl.reader.identity import Sampling
from medvl.reader.weights import ModelLocation, find_model, find_shape
from medvl.settings import Language, Looks, Settings

DEFAULT_NEW_TOKENS = 1024  # eight findings in full
_PICTURE_MARKS = 2  # vision start and end
_CHAT_MARKS = 12  # turns around the question
DEFAULT_LOOK_PX = 384  # twice the pixels of a crop along each side: what few pixels show is shown large


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What reads, and how it likes to be asked."""

    name: str
    preferences: Preferences
    sampling: Sampling
    max_new_tokens: int
    chunk: int | None  # pictures; None leaves the choice to the plan
    look: Manner | None  # the second look; None: none is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel(ModelChoice):
    """The model as asked for, whether or not its weights are on this machine."""

    location: ModelLocation | None
    shape: ModelShape


def choose_model(settings: Settings, store: Path) -> LocalModel:
    """Find the model's dimensions and what it prefers.

    Raises ModelError if nothing is known of it or its preferences are impossible, SettingsError for an impossible
    --chunk.
    """
    location = find_model(settings.model, store)
    preferences = read_preferences(location.folder) if location else Preferences()
    return LocalModel(
        name=location.name if location else settings.model,
        location=location,
        shape=find_shape(settings.model, store),
        preferences=preferences,
        sampling=Sampling(settings.temperature),
        max_new_tokens=settings.max_new_tokens or preferences.max_new_tokens or DEFAULT_NEW_TOKENS,
        chunk=_chunk_length(settings.chunk) or _chunk_length(preferences.chunk),
        look=_look(settings, preferences),
    )


def served_model(settings: Settings) -> ModelChoice:
    """Return what is asked of a server's model, of which no preferences are known. Raises SettingsError."""
    return ModelChoice(
        name=settings.model,
        preferences=Preferences(),
        sampling=Sampling(settings.temperature),
        max_new_tokens=settings.max_new_tokens or DEFAULT_NEW_TOKENS,
        chunk=_chunk_length(settings.chunk),
        look=_look(settings, Preferences()),
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
        leaves_machine=settings.server is not None and not settings.server.is_here,
    )


def plan_study(planned: PlannedStudy, model: LocalModel, settings: Settings, device: Device, trouble: str = "") -> Plan:
    """Plan one study's reading. trouble: why 8-bit weights cannot be loaded here, once that is known."""
    counter = TokenCounter(model.location.folder if model.location else None)
    work = _workload(planned, model, counter, settings.language)
    wishes = Wishes(settings.precision, model.chunk, settings.batch, settings.decode, trouble)
    return plan_reading(model.shape, device, work, wishes, settings.memory_bytes)


def _workload(planned: PlannedStudy, model: LocalModel, counter: TokenCounter, language: Language) -> Workload:
    texts = [prompt_text(view, view.view.slabs[:1]) for view in planned.views]
    seen_again = model.shape.picture_tokens(model.look.shown_px) * LOOK_PICTURES if model.look else 0
    size_px = max((view.view.rendering.size_px for view in planned.views), default=DEFAULT_SIZE_PX)
    return Workload(
        view_slab_counts=tuple(len(view.view.slabs) for view in planned.views),
        size_px=size_px,
        text_tokens=_CHAT_MARKS + _most(counter, (text.instruction + text.query for text in texts)),
        label_tokens=_PICTURE_MARKS + _most(counter, (text.labels[0] for text in texts)),
        new_tokens=model.max_new_tokens,
        look_tokens=seen_again and seen_again + _look_text_tokens(counter, language),
        look_vision_tokens=seen_again,
    )


def _look_text_tokens(counter: TokenCounter, language: Language) -> int:
    """Count a second look's words: prompt, labels and marks, for an observation of a few words."""
    facts = LookFacts("solid nodule", LOOK_PICTURES, "CT", "lung WL −600 WW 1500")
    text = load_prompt(LOOK_PROMPT, language).render(facts, [-120.5] * LOOK_PICTURES)
    labels = sum(_PICTURE_MARKS + counter.count(label) for label in text.labels)
    return _CHAT_MARKS + counter.count(text.instruction + text.query) + labels


def _most(counter: TokenCounter, texts: Iterable[str]) -> int:
    return max((counter.count(text) for text in texts), default=0)


def _look(settings: Settings, preferences: Preferences) -> Manner | None:
    """Return how a second look is taken, None where none is to be.

    The user's word counts, then the checkpoint's. Raises ModelError for a preference that cannot be met.
    """
    side_px = preferences.look_px or DEFAULT_LOOK_PX
    wish = preferences.second_look or "findings"
    if wish not in get_args(Looks) or side_px % 32 or not 32 <= side_px <= MAX_SIZE_PX:
        raise ModelError(
            f"The checkpoint wishes for a second look of {wish!r} at {side_px} px",
            expected=f"{' or '.join(get_args(Looks))}, at a multiple of 32 px up to {MAX_SIZE_PX}",
            todo=f"Correct its {PREFERENCES_FILE}",
        )
    return None if (settings.second_look or wish) == "off" else Manner(side_px, preferences.looks_for)


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
