"""What the user states about the patient and about single lesions, because no picture and no header shows it.

Nothing here has a default but "not stated". Knows no guideline; which of these facts decide what is theirs to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from medvl.errors import SettingsError

Risk = Literal["low", "high"]
LesionKind = Literal[
    "solid",
    "part-solid",
    "ground-glass",
    "juxtapleural",  # solid, smooth, and oval, lentiform or triangular
    "benign-calcification",  # complete, central, popcorn or in concentric rings
    "fat",
    "airway-subsegmental",
    "airway-segmental",  # or more proximal
    "thin-walled-cyst",
    "thick-walled-cyst",
    "multilocular-cyst",
]
Comparison = Literal[
    "baseline",  # seen for the first time, and no earlier examination to compare with
    "new",  # not there on an earlier examination
    "growing",
    "slowly-growing",  # over several examinations, never enough within a year to count as growing
    "stable",  # or smaller
    "growing-cavity",  # these three of cysts only
    "growing-wall",
    "denser",  # more loculation, or a new or increased opacity
]
EarlierCategory = Literal["2", "3", "4A", "4B"]
Feature = Literal[
    "spiculated",
    "lymphadenopathy",
    "metastasis",
    "doubled-in-a-year",
    "proven-benign",
    "dominant",  # the most suspicious of several
    "not-a-nodule",
    "aphe",  # nonrim arterial phase hyperenhancement
    "no-aphe",
    "washout",  # nonperipheral
    "no-washout",
    "capsule",
    "no-capsule",
    "threshold-growth",
    "no-threshold-growth",
    "other-categories-excluded",  # LR-NC, LR-TIV, LR-1, LR-2 and LR-M
]
StudyFact = Literal[
    "prior-awaited",  # an earlier examination is being located for comparison
    "lungs-not-evaluable",
    "infection",  # what is seen suggests infection or inflammation
    "significant-other",  # significant, and unrelated to lung cancer
    "no-significant-other",
    "hcc-risk",  # of hepatocellular carcinoma: high, as LI-RADS demands
    "multiphase",
]


_OLDEST_SHOWN = 90  # years


@dataclass(frozen=True, slots=True)
class StatedLesion:
    """What is stated about one finding, or about every lung nodule that no other statement names."""

    finding: int | None = None  # Finding.number
    kind: LesionKind | None = None
    compared: Comparison | None = None
    solid_part_mm: float | None = None  # mean diameter of the solid part of a part-solid nodule
    earlier_mm: float | None = None  # mean diameter at the earlier examination
    months: float | None = None  # since then
    earlier_category: EarlierCategory | None = None
    features: tuple[Feature, ...] = ()

    def __str__(self) -> str:
        """Write what is stated in the words of the flag."""
        named = (*((name, getattr(self, field)) for name, (field, _, _) in _VALUES.items()),)
        values = (
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in named if value
        )
        words = ",".join(filter(None, (self.kind, self.compared, *values, *self.features)))
        return words if self.finding is None else f"{self.finding}:{words}"


@dataclass(frozen=True, slots=True)
class Stated:
    """All that is stated about one study. None and empty: not stated."""

    age: int | None = None
    screening: bool | None = None
    risk: Risk | None = None
    immunosuppressed: bool | None = None
    known_cancer: bool | None = None
    facts: tuple[StudyFact, ...] = ()
    lesions: tuple[StatedLesion, ...] = ()

    def about(self, finding: int) -> StatedLesion:
        """Return what is stated about one finding: the statement that names it, else the one that names none."""
        by_number = {lesion.finding: lesion for lesion in self.lesions}
        return by_number.get(finding) or by_number.get(None) or StatedLesion()

    @property
    def shown_age(self) -> str:
        """The age as it may be shown: one above 89 can tell who the patient is (45 CFR 164.514)."""
        return "" if self.age is None else str(self.age) if self.age < _OLDEST_SHOWN else f"{_OLDEST_SHOWN}+"

    def __str__(self) -> str:
        """Write what is stated in the words of the flags."""
        switches = ("screening", "immunosuppressed", "known_cancer")
        said = [f"age {self.shown_age}"] if self.age is not None else []
        said += [f"risk {self.risk}"] if self.risk else []
        said += [name if getattr(self, name) else f"no {name}" for name in switches if getattr(self, name) is not None]
        return "; ".join((*said, *self.facts, *map(str, self.lesions))).replace("_", " ")


_CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kind", get_args(LesionKind)),
    ("compared", get_args(Comparison)),
)
_FEATURES: tuple[str, ...] = get_args(Feature)


def _millimetres(text: str) -> float:
    value = float(text.removesuffix("mm"))
    if not 0 < value < math.inf:
        raise ValueError
    return value


def _category(text: str) -> str:
    if text.upper() not in get_args(EarlierCategory):
        raise ValueError
    return text.upper()


# word before "=": field, reader of what follows, what is expected
_VALUES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "solid-part": ("solid_part_mm", _millimetres, "millimetres, such as solid-part=4.5"),
    "earlier": ("earlier_mm", _millimetres, "millimetres, such as earlier=5.2"),
    "months": ("months", _millimetres, "months, such as months=12"),
    "was": ("earlier_category", _category, f"one of {', '.join(get_args(EarlierCategory))}"),
}


def parse_facts(words: Sequence[str]) -> tuple[StudyFact, ...]:
    """Check the facts stated about a study. Raises SettingsError that lists those medvl knows."""
    known: tuple[StudyFact, ...] = get_args(StudyFact)
    if unknown := [word for word in words if word not in known]:
        raise _cannot_use("--stated", unknown[0], f"One of {', '.join(known)}")
    if {"significant-other", "no-significant-other"} <= set(words):
        raise _cannot_use("--stated", "no-significant-other", "significant-other was stated, too")
    return tuple(fact for fact in known if fact in words)


def parse_lesions(texts: Sequence[str]) -> tuple[StatedLesion, ...]:
    """Read statements such as "2:part-solid,solid-part=4.5,new"; without a number one is about every lung nodule.

    Raises SettingsError for a word that is not known, and where two words contradict each other.
    """
    lesions = tuple(_parse_lesion(text) for text in texts)
    numbers = [lesion.finding for lesion in lesions]
    for text, number in zip(texts, numbers, strict=True):
        if numbers.count(number) > 1:
            raise _cannot_use("--lesion", text, "One statement about each finding; its words are parted by commas")
    return lesions


def _parse_lesion(text: str) -> StatedLesion:
    match = re.fullmatch(r"(?:\s*(\d{1,4})\s*:)?(.*)", text)
    words = [word.strip().lower() for word in match[2].split(",")] if match else []
    values: dict[str, Any] = {"finding": int(match[1]) if match and match[1] else None}
    for word in filter(None, words):
        field, value = _parse_word(word)
        if field == "features":
            _refuse_contradiction(word, values.get("features", ()))
            value = (*values.get("features", ()), value)
        elif field in values:
            raise _cannot_use("--lesion", text, f'"{word}" contradicts or repeats a word before it')
        values[field] = value
    lesion = StatedLesion(**values)
    if len(values) == 1:
        raise _cannot_use("--lesion", text, "What it is, such as --lesion 2:solid,baseline")
    if lesion.earlier_mm is not None and lesion.compared is not None:
        raise _cannot_use("--lesion", text, f"{lesion.compared} is what earlier= is for medvl to judge; state one")
    return lesion


def _parse_word(word: str) -> tuple[str, Any]:
    """Return the field a word fills, and its value."""
    name, equals, rest = word.partition("=")
    if equals and name in _VALUES:
        field, read, expected = _VALUES[name]
        try:
            return field, read(rest)
        except ValueError as error:
            raise _cannot_use("--lesion", word, f"{name}= takes {expected}") from error
    for field, choices in _CHOICES:
        if word in choices:
            return field, word
    if word in _FEATURES:
        return "features", word
    known = (*(one for _, choices in _CHOICES for one in choices), *_FEATURES, *(f"{name}=" for name in _VALUES))
    raise _cannot_use("--lesion", word, f"Known words are {', '.join(known)}")


def _refuse_contradiction(word: str, before: Sequence[str]) -> None:
    if {word.removeprefix("no-"), f"no-{word}"} & set(before):
        raise _cannot_use("--lesion", word, f'"{word}" contradicts or repeats a word before it')


def _cannot_use(flag: str, text: str, expected: str) -> SettingsError:
    return SettingsError(f'{flag} "{text}" cannot be used', expected=expected, todo=f"Correct {flag}")
