"""Codes for the words of a finding: SNOMED CT where DICOM's own lists have one, else a code of medvl's own.

A code says no more than the words do, and may say less ("part-solid nodule" is coded as a nodule): the exact words
always go out beside it. Words that no entry of codes.json fits are their own meaning, under a code made from them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from medvl.records import Side
from medvl.text import clean_text

SNOMED = "SCT"
OWN_SCHEME = "99MEDVL"  # 99: a private coding scheme (PS3.16 8.2)
MEANING_CHARACTERS = 64  # of LO, (0008,0104) Code Meaning
Group = Literal["findings", "sites"]


@dataclass(frozen=True, slots=True)
class Coded:
    """A code, the scheme it is from, and its meaning in words."""

    value: str
    scheme: str
    meaning: str


def code_words(group: Group, words: str) -> Coded | None:
    """Find a code for an observation or a site; None where there are no words.

    The entry must be what the words end with, up to a first comma: "solid nodule" is a nodule, "nodule-like fold" and
    "fold beside a nodule" are not coded as one, nor is what is said to be absent.
    """
    plain = clean_text(words, MEANING_CHARACTERS).replace("\\", "/")  # a backslash would make two values (PS3.5 6.4)
    if not plain:
        return None
    head = re.split(r"[,;(，；（]", plain, maxsplit=1)[0].strip().casefold()
    for term, coded in _terms(group):
        if _ends_with(head, term):
            return coded
    digest = hashlib.sha256(plain.casefold().encode()).hexdigest()[:12]
    return Coded(digest.upper(), OWN_SCHEME, plain)


# What the words end with says what a thing is, unless they speak of something near it, like it, or not there.
_OTHER = re.compile(
    r"\b(no|non|not|without|beside|near|around|behind|above|below|of|in|at|to|from|versus|vs|or|and)\b|[无非旁假]"
)


def _ends_with(head: str, term: str) -> bool:
    if not head.endswith(term):
        return False
    before = head[: -len(term)]
    whole = not term.isascii() or not before or before[-1] in " -"
    return whole and not _OTHER.search(before)


@cache
def _terms(group: Group) -> tuple[tuple[str, Coded], ...]:
    """Load the table, the longest terms first: "upper lobe of lung" before "lung"."""
    table = json.loads((Path(__file__).parent / "codes.json").read_text("utf-8"))
    pairs = [
        (term, Coded(entry["code"], SNOMED, entry["meaning"])) for entry in table[group] for term in entry["terms"]
    ]
    return tuple(sorted(pairs, key=lambda pair: len(pair[0]), reverse=True))


# PS3.16 CID 244; the midline is no laterality but a topographical modifier (CID 5).
LATERALITY: dict[Side, Coded] = {
    "right": Coded("24028007", SNOMED, "Right"),
    "left": Coded("7771000", SNOMED, "Left"),
    "bilateral": Coded("51440002", SNOMED, "Bilateral"),
}
MIDLINE = Coded("261129000", SNOMED, "Midline")
