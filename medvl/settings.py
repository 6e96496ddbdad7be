"""What the user asked for, as one frozen value. Built once in `cli`; nothing below reads the environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medvl.address import ServerAddress
from medvl.stated import Stated

Precision = Literal["auto", "int8", "nf4", "bf16", "fp32"]
Decode = Literal["auto", "engine", "stock"]
Language = Literal["en", "zh"]
Looks = Literal["off", "findings"]
GuidelinesWish = Literal["auto", "off", "on"]
DEFAULT_MODEL = "Qwen/Qwen3-VL-8B-Instruct"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what is read and how. None means: as the model prefers, else medvl's default."""

    output: Path = Path("reports")
    model: str = DEFAULT_MODEL  # of a server: as it says, "" for its only one
    server: ServerAddress | None = None  # reads instead of a local model
    precision: Precision = "auto"
    decode: Decode = "auto"  # which loop writes the replies; never part of what is asked
    series: tuple[str, ...] = ("auto",)  # "auto", "all" or Series Instance UIDs
    windows: tuple[str, ...] = ("auto",)  # preset names, "rgb" or "WL/WW"
    size_px: int | None = None
    slab: str | None = None  # "auto", "off" or millimetres
    chunk: str | None = None  # "auto" or a number of slabs
    batch: int | None = None  # chunks per model call
    memory_bytes: int | None = None  # plan for this much instead of what is free
    prompt: str | None = None  # id or file
    language: Language = "en"
    second_look: Looks | None = None  # what is asked about again on a crop at full resolution
    temperature: float = 0.0
    max_new_tokens: int | None = None
    cache: bool = True  # keep what headers say, so that a file that has not changed is not opened again
    strict: bool = False  # a caution of the gate keeps a stack from being read
    stated: Stated | None = None  # about the patient and single findings, for guidelines; None: nothing
    guidelines: GuidelinesWish = "auto"  # auto: with a model that is marked as evaluated
    deidentify: bool = False
    force: bool = False
