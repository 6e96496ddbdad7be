"""Tells apart frames that lie at the same places: phases, b-values, echoes, kernels of one series.

Knows frames and which of them share a place; where the places are is for `geometry`. Nothing is ever left out: what
no trait tells apart stays together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from medvl.records import Apart, Frame, TraitName

STATION_FROM_MM = 20.0  # pictures of one anatomy in several phases may be centred a little differently
PLACE_FROM_MM = 1.0
_SAME_RUN_S = 5.0  # slices of one run follow each other faster, contrast phases at least three times as slowly
_SMALLEST_STACK = 3  # on average; a trait that cuts finer than this changes from slice to slice
_COMPONENT_ORDER = ("MAGNITUDE", "REAL", "")  # as read first; phase and imaginary parts follow
# (0018,9344) Contrast/Bolus Agent Phase, where no times tell which came first.
_CONTRAST_ORDER = (
    *("PRE_CONTRAST", "IMMEDIATE", "ARTERIAL", "CAPILLARY", "VENOUS", "PORTAL_VENOUS", "DYNAMIC", "STEADY_STATE"),
    *("POST_CONTRAST", "DELAYED"),
)

_Value = Any  # of one trait: equal or not, and in an order; None where the header says nothing


@dataclass(frozen=True, slots=True)
class AtPlace:
    """A frame and the place it shares with others."""

    frame: Frame
    place: Hashable


@dataclass(frozen=True, slots=True)
class Part:
    """Frames that belong to one stack, and what tells them from the others."""

    members: tuple[AtPlace, ...]
    apart: tuple[Apart, ...] = ()

    @property
    def frames(self) -> list[Frame]:
        """The frames alone."""
        return [member.frame for member in self.members]


def split_places(members: Sequence[AtPlace]) -> tuple[Part, ...]:
    """Split frames until no two at one place differ in any trait; the whole, where places are not shared.

    A trait only splits where it differs at one place: frames of two acquisitions one behind the other stay together.
    Every frame given is in exactly one part.
    """
    parts = [Part(tuple(members))]
    for trait in _TRAITS:
        parts = [smaller for part in parts for smaller in _split(part, trait)]
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class _Trait:
    """Something that tells frames apart. `values_of` gives one value for each frame."""

    name: TraitName
    values_of: Callable[[Sequence[Frame]], Sequence[_Value]]
    describe: Callable[[_Value], str] = lambda _: ""  # goes into the label; "" where only the number counts
    changes: bool = False  # may change from slice to slice: the order at each place counts then


def _split(part: Part, trait: _Trait) -> list[Part]:
    values = list(trait.values_of(part.frames))
    if not _differs_at_a_place(part, values):
        return [part]
    by_order = trait.changes and _is_too_fine(part, values)
    classes: dict[_Value, list[AtPlace]] = defaultdict(list)
    keys = _order_at_place(part, values) if by_order else values
    for member, key in zip(part.members, keys, strict=True):
        classes[key].append(member)
    ordered = sorted(classes.items(), key=lambda item: _class_order(trait.name, *item))
    return [
        Part(tuple(members), (*part.apart, _apart(trait, number, ordered, by_order)))
        for number, (_, members) in enumerate(ordered, start=1)
    ]


def _differs_at_a_place(part: Part, values: Sequence[_Value]) -> bool:
    first: dict[Hashable, _Value] = {}
    pairs = zip(part.members, values, strict=True)
    return any(first.setdefault(member.place, value) != value for member, value in pairs)


def _is_too_fine(part: Part, values: Sequence[_Value]) -> bool:
    """Say whether splitting by value would leave mostly single slices, though no place holds so many frames."""
    count, most = len(set(values)), max(_per_place(part).values())
    return count > 2 * most and len(values) < _SMALLEST_STACK * count


def _per_place(part: Part) -> dict[Hashable, int]:
    counts: dict[Hashable, int] = defaultdict(int)
    for member in part.members:
        counts[member.place] += 1
    return counts


def _order_at_place(part: Part, values: Sequence[_Value]) -> list[int]:
    """Number the frames of each place by their value; equal values share a number."""
    found: dict[Hashable, set[_Value]] = defaultdict(set)
    for member, value in zip(part.members, values, strict=True):
        found[member.place].add(value)
    ranks = {
        place: {value: rank for rank, value in enumerate(sorted(at_place, key=_none_first), start=1)}
        for place, at_place in found.items()
    }
    return [ranks[member.place][value] for member, value in zip(part.members, values, strict=True)]


def _none_first(value: _Value) -> tuple[bool, _Value]:
    return value is not None, value if value is not None else 0


def _class_order(name: TraitName, value: _Value, members: Sequence[AtPlace]) -> tuple[Any, ...]:
    """Put phases in the order of their times, complex components with the one to read first, the rest by value."""
    if name == "component":
        return (value not in _COMPONENT_ORDER, _COMPONENT_ORDER.index(value) if value in _COMPONENT_ORDER else 0, value)
    started = _started_s(members) if name == "phase" else None
    known = name == "phase" and value in _CONTRAST_ORDER
    return (started is not None, started or 0.0, _CONTRAST_ORDER.index(value) if known else -1, *_none_first(value))


def _started_s(members: Sequence[AtPlace]) -> float | None:
    times = [member.frame.acquired_at_s for member in members]
    return min((time for time in times if time is not None), default=None)


# --- labels ------------------------------------------------------------------------------------------------------


def _apart(trait: _Trait, number: int, classes: Sequence[tuple[_Value, list[AtPlace]]], by_order: bool) -> Apart:
    value, members = classes[number - 1]
    if trait.name == "image type":
        described = _own_words(value, [other for other, _ in classes])
    else:
        described = "" if by_order else trait.describe(value)
    numbered = f"{trait.name} {number} of {len(classes)}"
    if trait.name == "phase":
        described = ", ".join(filter(None, (described, _delay(members, classes))))
    if trait.name in _NAMED_BY_VALUE and described:
        label = described
    else:
        label = f"{numbered} ({described})" if described else numbered
    return Apart(trait.name, number, len(classes), label, value if isinstance(value, str) else "")


def _delay(members: Sequence[AtPlace], classes: Sequence[tuple[_Value, list[AtPlace]]]) -> str:
    """Tell how long after the first phase one began; times of day would identify a patient."""
    began, first = _started_s(members), _started_s([member for _, others in classes for member in others])
    return f"+{began - first:.0f} s" if began is not None and first is not None and began > first else ""


def _own_words(value: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    """Name the words of an image type that not all of the types share."""
    shared = set(others[0]).intersection(*others)
    return " ".join(word for word in value if word and word not in shared)


_NAMED_BY_VALUE = frozenset(
    {"component", "image type", "stack", "kernel", "b-value", "flip angle", "inversion", "heart phase"}
)


# --- traits ------------------------------------------------------------------------------------------------------


def _exactly(get: Callable[[Frame], _Value]) -> Callable[[Sequence[Frame]], list[_Value]]:
    return lambda frames: [get(frame) for frame in frames]


def _within(get: Callable[[Frame], float | None], step: float) -> Callable[[Sequence[Frame]], list[float | None]]:
    """Make numbers one value that follow each other by no more than `step`: the smallest of them."""

    def values_of(frames: Sequence[Frame]) -> list[float | None]:
        found = [get(frame) for frame in frames]
        known = sorted({value for value in found if value is not None})
        smallest = dict(zip(known[:1], known[:1], strict=True))
        for before, after in pairwise(known):
            smallest[after] = smallest[before] if after - before <= step else after
        return [None if value is None else smallest[value] for value in found]

    return values_of


def _stations(from_mm: float) -> Callable[[Sequence[Frame]], list[tuple[float, float]]]:
    """Make a trait of where in its plane a frame lies: coronal slices of several table positions, say."""

    def values_of(frames: Sequence[Frame]) -> list[tuple[float, float]]:
        stations: list[tuple[float, float]] = []
        values = []
        for frame in frames:
            corner = _in_plane_mm(frame)
            near = (one for one in stations if max(abs(one[0] - corner[0]), abs(one[1] - corner[1])) < from_mm)
            station = next(near, None)
            if station is None:
                stations.append(station := corner)
            values.append(station)
        return values

    return values_of


def _in_plane_mm(frame: Frame) -> tuple[float, float]:
    if frame.plane is None:
        return 0.0, 0.0
    corner = np.asarray(frame.plane.position_lps_mm)
    return float(corner @ frame.plane.row_cosines), float(corner @ frame.plane.column_cosines)


# In the order in which they are tried: what a frame is before when it was taken. A diffusion series has acquisition
# numbers, too, but is told by its b-values.
_TRAITS: tuple[_Trait, ...] = (
    _Trait("station", _stations(STATION_FROM_MM), changes=True),
    _Trait("component", _exactly(lambda frame: frame.traits.component), lambda value: value.lower()),
    _Trait("b-value", _within(lambda frame: frame.traits.b_value, 1.0), lambda b: _number("b {:g} s/mm²", b)),
    _Trait("image type", _exactly(lambda frame: frame.traits.image_type)),
    _Trait("stack", _exactly(lambda frame: frame.traits.stack_id), lambda value: value and f"stack ID {value}"),
    _Trait("kernel", _exactly(lambda frame: frame.traits.kernel), lambda value: value and f"kernel {value}"),
    _Trait("echo", _within(lambda frame: frame.traits.echo_ms, 0.01), lambda ms: _number("TE {:g} ms", ms)),
    _Trait("inversion", _within(lambda frame: frame.traits.inversion_ms, 1.0), lambda ms: _number("TI {:g} ms", ms)),
    _Trait(
        "flip angle", _within(lambda frame: frame.traits.flip_degrees, 0.1), lambda angle: _number("flip {:g}°", angle)
    ),
    _Trait("direction", _exactly(lambda frame: frame.traits.b_direction)),
    _Trait("heart phase", _exactly(lambda frame: frame.traits.heart_percent), lambda at: _number("{:g} % of RR", at)),
    _Trait("phase", _exactly(lambda frame: frame.traits.contrast_phase), lambda value: value.lower()),
    _Trait("phase", _exactly(lambda frame: frame.traits.temporal_position)),
    _Trait("phase", _exactly(lambda frame: frame.acquisition), changes=True),
    _Trait(
        "heart phase",
        _within(lambda frame: frame.traits.trigger_ms, 0.5),
        lambda ms: _number("trigger {:g} ms", ms),
        changes=True,
    ),
    _Trait("phase", _within(lambda frame: frame.acquired_at_s, _SAME_RUN_S), changes=True),
    _Trait("phase", _exactly(lambda frame: frame.acquired_at_s), changes=True),
    _Trait("dimension", _exactly(lambda frame: frame.traits.dimensions)),
    _Trait("station", _stations(PLACE_FROM_MM), changes=True),
)


def _number(form: str, value: float | None) -> str:
    return form.format(value) if value is not None else ""
