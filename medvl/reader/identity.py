"""Says what reads a study, for the ledger and the report, before any weights are loaded. Imports neither torch nor
transformers, so that a finished study can be recognised in no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from medvl.reader.checkpoint import fingerprint, read_preferences
from medvl.reader.weights import ModelLocation
from medvl.records import ReaderIdentity

_PACKAGES = ("torch", "transformers", "bitsandbytes", "llguidance")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: the likeliest at temperature 0, else drawn as Qwen recommends for Instruct."""

    temperature: float = 0.0
    seed: int = 0
    top_p: float = 0.8
    top_k: int = 20

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    @property
    def description(self) -> str:
        """As shown in the report and kept in ledger keys."""
        if self.greedy:
            return "greedy"
        return f"sampled: temperature {self.temperature:g}, top-p {self.top_p:g}, top-k {self.top_k}, seed {self.seed}"


def identify_reader(
    location: ModelLocation, precision: str, sampling: Sampling, *, device: str = "", decode: str = "stock"
) -> ReaderIdentity:
    """Describe the reader a checkpoint makes at this precision.

    precision, decode: as really used.
    Raises ModelError if the checkpoint cannot be read.
    """
    return ReaderIdentity(
        model=location.name,
        fingerprint=fingerprint(location.folder),
        precision=precision,
        device=device,
        generation=sampling.description,
        versions=tuple((name, found) for name in _PACKAGES if (found := _installed(name))),
        warning=read_preferences(location.folder).warning,
        decode=decode,
    )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
