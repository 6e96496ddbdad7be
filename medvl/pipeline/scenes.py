"""Tells the merge what was looked at: where a stack lies in the patient, and which slices each chunk showed."""

from __future__ import annotations

from collections.abc import Iterable

from medvl.dicom.geometry import unit_normal
from medvl.findings.places import Scene
from medvl.pipeline.reading import ChunkReading, frame_key
from medvl.pipeline.views import PlannedView
from medvl.records import Series


def scene_of(planned: PlannedView, understood: Iterable[tuple[int, ChunkReading]]) -> Scene:
    """Describe one view.

    understood: number and reading of the chunks whose replies can be used; others cannot have missed anything.
    """
    stack = planned.view.stack
    first = stack.slices[0].frame
    return Scene(
        series_uid=stack.series.uid,
        view=planned.view.name,
        series_name=series_name(stack.series),
        stack=frame_key(first),
        frame_of_reference_uid=first.frame_of_reference_uid,
        normal=unit_normal(first.plane) if first.plane else None,
        chunks={
            number: tuple((slab.slices[0].number, slab.slices[-1].number) for slab in reading.shown)
            for number, reading in understood
        },
    )


def series_name(series: Series) -> str:
    """Name a series in a sentence."""
    return "series without number" if series.number is None else f"series {series.number}"
