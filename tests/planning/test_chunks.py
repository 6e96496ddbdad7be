from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl.planning.chunks import halve_chunk, overlap_for, plan_chunks
from medvl.planning.plan import chunk_count
from medvl.records import Chunk, Slab


def numbers(chunks: tuple[Chunk, ...]) -> list[list[int]]:
    return [[slab.number for slab in chunk.slabs] for chunk in chunks]


def covers_all(chunks, of) -> bool:
    """Whether the chunks hold every slab, in order, without a hole."""
    touching = all(after[0] <= before[-1] + 1 for before, after in pairwise(numbers(chunks)))
    return touching and sorted({n for chunk in numbers(chunks) for n in chunk}) == [slab.number for slab in of]


def slabs(count: int) -> list[Slab]:
    return [Slab(number, ()) for number in range(1, count + 1)]


def test_neighbours_share_the_overlap_and_lengths_are_even():
    assert numbers(plan_chunks(slabs(7), length=4, overlap=1)) == [[1, 2, 3, 4], [4, 5, 6, 7]]
    assert [len(chunk.slabs) for chunk in plan_chunks(slabs(21), length=10, overlap=1)] == [7, 8, 8]


def test_a_short_stack_is_one_chunk():
    assert numbers(plan_chunks(slabs(3), length=10, overlap=1)) == [[1, 2, 3]]
    assert plan_chunks([], length=10, overlap=1) == ()


@given(count=st.integers(1, 400), length=st.integers(1, 40), data=st.data())
def test_every_slab_is_read_and_only_the_overlap_twice(count, length, data):
    overlap = data.draw(st.integers(0, length - 1))
    chunks = plan_chunks(slabs(count), length=length, overlap=overlap)
    assert covers_all(chunks, slabs(count))
    assert all(len(chunk.slabs) <= length for chunk in chunks)
    for before, after in pairwise(numbers(chunks)):
        assert before[-overlap or len(before) :] == after[:overlap]


@given(counts=st.lists(st.integers(0, 400), min_size=1, max_size=4), length=st.integers(1, 40))
def test_the_plan_counts_the_chunks_that_are_made(counts, length):
    overlap = overlap_for(length)
    made = sum(len(plan_chunks(slabs(count), length=length, overlap=overlap)) for count in counts)
    assert chunk_count(counts, length) == made


@given(count=st.integers(2, 40))
def test_half_chunks_are_shorter_and_together_whole(count):
    chunk = Chunk(0, tuple(slabs(count)))
    halves = halve_chunk(chunk, overlap_for(count))
    assert len(halves) == 2
    assert covers_all(halves, chunk.slabs)
    assert max(len(half.slabs) for half in halves) < count


def test_a_single_slab_cannot_be_halved():
    assert halve_chunk(Chunk(0, tuple(slabs(1))), 0) == (Chunk(0, tuple(slabs(1))),)


def test_an_overlap_as_long_as_the_chunk_is_refused():
    with pytest.raises(ValueError, match="overlap of 4 does not fit into chunks of 4"):
        plan_chunks(slabs(9), length=4, overlap=4)
