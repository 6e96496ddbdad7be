from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl.reader.engine.rows import Rows


def test_free_slots_are_filled_from_the_lowest_and_keep_the_requests_numbers():
    rows = Rows("abcde", 3)
    assert list(rows.admit()) == [(0, 0, "a"), (1, 1, "b"), (2, 2, "c")]
    assert rows.release(1) == 1
    assert list(rows.admit()) == [(1, 3, "d")]
    assert dict(rows.busy) == {0: 0, 1: 3, 2: 2}


def test_no_request_is_drawn_while_every_slot_is_busy():
    drawn: list[int] = []

    def requests() -> Iterator[int]:
        for number in range(4):
            drawn.append(number)
            yield number

    rows = Rows(requests(), 2)
    assert drawn == []
    list(rows.admit())
    list(rows.admit())
    assert drawn == [0, 1]
    rows.release(0)
    list(rows.admit())
    assert drawn == [0, 1, 2]


def test_a_request_is_drawn_when_the_one_before_has_been_taken_care_of():
    drawn: list[int] = []

    def requests() -> Iterator[int]:
        for number in range(3):
            drawn.append(number)
            yield number

    assert [(slot, list(drawn)) for slot, *_ in Rows(requests(), 2).admit()] == [(0, [0]), (1, [0, 1])]


def test_nothing_waiting_is_done_as_soon_as_that_is_looked_for():
    rows = Rows([], 2)
    assert not rows.done
    assert list(rows.admit()) == []
    assert rows.done


def test_the_last_request_must_be_released_before_all_is_done():
    rows = Rows(["only"], 2)
    list(rows.admit())
    assert not rows.done
    rows.release(0)
    assert rows.done


def test_an_error_of_what_waits_comes_out_where_it_is_drawn():
    def requests() -> Iterator[str]:
        yield "good"
        raise OSError("the second cannot be made")

    rows = Rows(requests(), 1)
    assert list(rows.admit()) == [(0, 0, "good")]
    rows.release(0)
    with pytest.raises(OSError, match="the second cannot be made"):
        list(rows.admit())


def test_a_slot_that_holds_nothing_cannot_be_released():
    with pytest.raises(ValueError, match="slot 1 holds nothing"):
        Rows("a", 2).release(1)


def test_there_must_be_a_slot():
    with pytest.raises(ValueError, match="0 slots can hold nothing"):
        Rows("a", 0)


@given(waiting=st.integers(0, 40), count=st.integers(1, 9), data=st.data())
def test_every_request_gets_a_slot_once_and_in_order(waiting: int, count: int, data: st.DataObject) -> None:
    rows, numbers, held = Rows(range(waiting), count), [], set()
    for _ in range(waiting + 2):  # as many rounds as it takes if only one slot is freed in each
        for slot, number, request in rows.admit():
            assert slot not in held  # reused only after its release
            assert request == number
            held.add(slot)
            numbers.append(number)
        assert set(rows.busy) == held <= set(range(count))
        assert rows.done == (len(numbers) == waiting and not held)
        if rows.done:
            break
        for slot in data.draw(st.sets(st.sampled_from(sorted(held)), min_size=1)):
            rows.release(slot)
            held.remove(slot)
    assert numbers == list(range(waiting))
    assert rows.done
