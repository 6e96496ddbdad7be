"""What was measured of a finding, with the codes and units that every export names it by."""

from __future__ import annotations

from dataclasses import dataclass

from medvl.export.codes import SNOMED, Coded
from medvl.records import Finding

MILLIMETRE, HOUNSFIELD = "mm", "[hnsf'U]"  # as UCUM writes them
_LONG, _SHORT, _DEPTH = (
    Coded("103339001", SNOMED, "Long axis"),
    Coded("103340004", SNOMED, "Short axis"),
    Coded("131197000", SNOMED, "Depth"),
)
_ATTENUATION, _MEAN = Coded("112031", "DCM", "Attenuation Coefficient"), Coded("373098007", SNOMED, "Mean")
_DECIMALS = 1  # of a millimetre or a Hounsfield unit: more than any box can tell


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with what it is of, its unit, and how it was derived from several."""

    name: Coded
    value: float
    unit: str
    derivation: Coded | None = None


def measures_of(finding: Finding) -> tuple[Measure, ...]:
    """List what was measured of a finding. What the model says of sizes is not among it."""
    long_mm, short_mm = axes_mm(finding)
    mean_hu = None if finding.density is None else finding.density.mean_hu
    measured = (
        (_LONG, long_mm, MILLIMETRE, None),
        (_SHORT, short_mm, MILLIMETRE, None),
        (_DEPTH, finding.depth_mm, MILLIMETRE, None),
        (_ATTENUATION, mean_hu, HOUNSFIELD, _MEAN),
    )
    return tuple(
        Measure(name, round(value, _DECIMALS), unit, how) for name, value, unit, how in measured if value is not None
    )


def axes_mm(finding: Finding) -> tuple[float | None, float | None]:
    """Return the long and the short axis; reports of earlier versions tell width and height alone."""
    if finding.long_axis_mm is not None or finding.width_mm is None or finding.height_mm is None:
        return finding.long_axis_mm, finding.short_axis_mm
    return max(finding.width_mm, finding.height_mm), min(finding.width_mm, finding.height_mm)
