"""What the guidelines are given and what they answer. Knows no table, no page and no language."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medvl.records import Finding
from medvl.stated import StatedLesion

Guideline = Literal["lung_rads", "fleischner", "li_rads"]
Band = tuple[float, float]  # mm; the lower bound belongs to it, the upper does not
ANY: Band = (0.0, math.inf)


@dataclass(frozen=True, slots=True)
class Phrase:
    """Something to be said: a code and its values. The words for it are kept with the report's."""

    code: str
    values: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """One fact that an answer rests on, and whether it was measured; the others are stated by the user."""

    phrase: Phrase
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One row of a table: its name where rows have one, what it says, and what is then recommended."""

    name: str
    row: tuple[Phrase, ...]
    management: Phrase | None = None


@dataclass(frozen=True, slots=True)
class Category:
    """A guideline's answer.

    results: the first is that of the measured size; others follow where the measurement's error reaches their rows.
    finding: the one that decided, None where none did.
    """

    guideline: Guideline
    finding: int | None
    results: tuple[Result, ...]
    inputs: tuple[Input, ...]
    modifiers: tuple[str, ...] = ()
    cautions: tuple[Phrase, ...] = ()


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """Why a guideline gives no answer: every reason that was found, not only the first."""

    guideline: Guideline
    reasons: tuple[Phrase, ...]
    finding: int | None = None


Assessment = Category | NotApplicable


@dataclass(frozen=True, slots=True)
class Exam:
    """What is known of an examination without asking anyone."""

    findings: tuple[Finding, ...]
    ct_series: frozenset[str]  # Series Instance UIDs
    chest_series: frozenset[str]  # those of CT whose headers name the chest
    complete: bool  # everything that was to be read was read
    volume_count: int  # CT stacks in the study: the phases it can show at most
    evaluated: bool  # the model's accuracy was measured and published with it


@dataclass(frozen=True, slots=True)
class Diameter:
    """A lesion's two axes in the plane, as measured, and what either may be off by."""

    long_mm: float
    short_mm: float
    error_mm: float

    @property
    def mean(self) -> Span:
        """Their mean. The error of both may have one cause, so that of the mean is not taken to be smaller."""
        middle = (tenths(self.long_mm) + tenths(self.short_mm) + 1) // 2
        return Span.around(middle, self.error_mm)

    @property
    def long(self) -> Span:
        """The long axis alone."""
        return Span.around(tenths(self.long_mm), self.error_mm)


@dataclass(frozen=True, slots=True)
class Span:
    """A length in tenths of a millimetre, as guidelines state it, and the least and most that it may be."""

    middle: int
    least: int
    most: int

    @classmethod
    def around(cls, middle: int, error_mm: float) -> Span:
        """Return the span that an error leaves open."""
        error = tenths(error_mm)
        return cls(middle, max(middle - error, 0), middle + error)

    @classmethod
    def largest(cls, spans: list[Span]) -> Span:
        """Return how large the largest of several may be."""
        return cls(
            max(each.middle for each in spans), max(each.least for each in spans), max(each.most for each in spans)
        )

    def __iter__(self) -> Iterator[int]:
        """Yield every length that it may be, the measured one first."""
        yield self.middle
        yield from (each for each in range(self.least, self.most + 1) if each != self.middle)


@dataclass(frozen=True, slots=True)
class Nodule:
    """One lesion: where it was found, how large it was measured, and what is stated about it."""

    finding: int
    slice: int
    diameter: Diameter | None
    stated: StatedLesion


def tenths(mm: float) -> int:
    """Round a length to tenths of a millimetre, halves up."""
    return math.floor(round(mm * 10, 6) + 0.5)  # 0.05 has no exact float; the sixth decimal of a tenth is noise


def holds(band: Band, length: int) -> bool:
    """Tell whether a length in tenths of a millimetre lies in a band."""
    return band[0] <= length / 10 < band[1]


def say_band(what: str, band: Band) -> Phrase:
    """Say a band that lengths are compared with: below 6 mm, 6 to below 8 mm, 15 mm or more."""
    low, high = band
    if high == math.inf:
        return Phrase(f"{what}.from", (("low", low),))
    return (
        Phrase(f"{what}.between", (("low", low), ("high", high))) if low else Phrase(f"{what}.below", (("high", high),))
    )
