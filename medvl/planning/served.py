"""Plans a reading by a server, whose memory is its own affair: only how chunks are cut and how many may be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medvl.planning.chunks import overlap_for
from medvl.planning.plan import DEFAULT_CHUNK, chunk_count

_MOST_ROWS = 16  # requests at once; what the server bears is found while reading


@dataclass(frozen=True, slots=True)
class ServedPlan:
    """What a run will ask a server."""

    chunk_length: int
    overlap: int
    batch: int  # chunks under way at once, at most
    chunk_count: int


def plan_served(view_slab_counts: Sequence[int], chunk: int | None, batch: int | None) -> ServedPlan:
    """Cut views into chunks as wished, never by what a server has refused before.

    A resumed run must meet the same chunks in its ledger, whatever it has found out in between: chunks that are too
    large are halved from these.
    """
    length = min(chunk or DEFAULT_CHUNK, max((1, *view_slab_counts)))
    return ServedPlan(length, overlap_for(length), batch or _MOST_ROWS, chunk_count(view_slab_counts, length))
