"""Tells sharp from soft reconstruction kernels of CT by the names that vendors give them.

Sharp ones show lung and bone, soft ones the organs. Names follow each vendor's own published naming; an unknown name
is said to be unknown.
"""

from __future__ import annotations

import re
from typing import Literal

KernelKind = Literal["sharp", "soft", "unknown"]

# Siemens: letters for the body region, then two digits that grow with sharpness (B31f, Br38f, Hr60, I70f).
_SIEMENS = re.compile(r"(?:Bl|Br|Bv|Hr|Hv|Hc|Hp|Hn|Qr|Sa|Ur|[BDHIJTU])(\d\d)[a-z]?", re.IGNORECASE)
_SIEMENS_SHARP_FROM = 60
_SIEMENS_LUNG_SHARP_FROM = 50  # Bl57 is a lung kernel
# Canon and Toshiba: FC and a number; the tens name the region.
_CANON = re.compile(r"FC(\d\d)", re.IGNORECASE)
_CANON_SHARP_TENS = frozenset({3, 5, 7, 8})  # 30: bone, 50: lung, 70 and 80: high resolution; 60: brain
_SHARP_NAMES = frozenset(
    {
        *("LUNG", "BONE", "BONEPLUS", "BONE PLUS", "EDGE", "EDGE PLUS", "ULTRA"),  # GE
        *("D", "E", "F", "L", "LI", "YA", "YB", "YC", "YD", "YE"),  # Philips
    }
)
_SOFT_NAMES = frozenset(
    {
        *("STANDARD", "STND", "SOFT", "DETAIL", "CHST", "HD STANDARD"),  # GE
        *("A", "B", "C", "UA", "UB", "UC", "XA", "XB", "XC"),  # Philips
    }
)
_SHARP_WORDS = re.compile(r"\b(lung|bone|sharp|hrct|edge)\b", re.IGNORECASE)
_SOFT_WORDS = re.compile(r"\b(soft|standard|std|mediast\w*|abdomen)\b", re.IGNORECASE)


def kernel_kind(kernel: str, description: str = "") -> KernelKind:
    """Say whether a kernel is sharp or soft; without a kernel, judge by words in the series description."""
    name = kernel.strip()
    if not name:
        return _kind_of_words(description)
    if match := _SIEMENS.fullmatch(name):
        limit = _SIEMENS_LUNG_SHARP_FROM if name[:2].lower() == "bl" else _SIEMENS_SHARP_FROM
        return "sharp" if int(match[1]) >= limit else "soft"
    if match := _CANON.match(name):
        return "sharp" if int(match[1]) // 10 in _CANON_SHARP_TENS else "soft"
    if name.upper() in _SHARP_NAMES:
        return "sharp"
    return "soft" if name.upper() in _SOFT_NAMES else "unknown"


def _kind_of_words(description: str) -> KernelKind:
    sharp, soft = bool(_SHARP_WORDS.search(description)), bool(_SOFT_WORDS.search(description))
    if sharp == soft:
        return "unknown"
    return "sharp" if sharp else "soft"
