"""Cuts a stack's slabs into chunks: consecutive, overlapping, none left out. Knows no pixels and no model."""

from __future__ import annotations

from collections.abc import Sequence

from medvl.records import Chunk, Slab


def plan_chunks(slabs: Sequence[Slab], *, length: int, overlap: int) -> tuple[Chunk, ...]:
    """Cut slabs into chunks of at most `length`, neighbours sharing `overlap` slabs.

    The chunks are made as equal as possible, so that the last one is not a stub the model sees out of context.
    Every slab is in at least one chunk, and only slabs of the overlap are in two.
    Raises ValueError unless 0 ≤ overlap < length.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"an overlap of {overlap} does not fit into chunks of {length}")
    if not slabs:
        return ()
    starts = _starts(len(slabs), length, overlap)
    ends = [start + overlap for start in starts[1:]] + [len(slabs)]
    return tuple(Chunk(i, tuple(slabs[a:b])) for i, (a, b) in enumerate(zip(starts, ends, strict=True)))


def halve_chunk(chunk: Chunk, overlap: int) -> tuple[Chunk, ...]:
    """Cut one chunk into two that share `overlap` slabs, or return it alone if it cannot get shorter."""
    count = len(chunk.slabs)
    shared = min(overlap, max(count - 2, 0))
    length = (count + shared + 1) // 2
    if count < 2:
        return (chunk,)
    return plan_chunks(chunk.slabs, length=length, overlap=shared)


def overlap_for(length: int) -> int:
    """Return how many slabs neighbouring chunks share: one, so that one of them sees a lesion on the border whole."""
    return 1 if length >= 3 else 0


def _starts(count: int, length: int, overlap: int) -> list[int]:
    step = length - overlap
    chunks = max(1, -(-(count - overlap) // step))
    # Equal shares of what lies outside the last overlap; rounding keeps each share within `step`.
    return [i * (count - overlap) // chunks for i in range(chunks)]
