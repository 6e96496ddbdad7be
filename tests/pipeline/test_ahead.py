import threading
from contextlib import closing
from dataclasses import replace

import pytest

from medvl.errors import WindowError
from medvl.pipeline.ahead import work_ahead
from medvl.pipeline.showing import show_chunk
from tests.pipeline.bench import report_bright, write_body
from tests.reader_fakes import ScriptedReader, StreamingReader

PATIENCE_S = 20


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("medvl-")]


# --- work done ahead ---------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_their_items():
    assert list(work_ahead(lambda item: item * 10, [3, 1, 2], 2)) == [30, 10, 20]


def test_without_items_there_is_nothing_and_no_thread():
    assert list(work_ahead(str, [], 2)) == []
    assert own_threads() == []


def test_work_is_done_while_the_caller_is_busy_and_never_further_ahead_than_asked():
    begun: list[int] = []
    two_ahead = threading.Event()

    def work(item):
        begun.append(item)
        if item == 2:
            two_ahead.set()
        return item

    with closing(work_ahead(work, range(9), 2)) as results:
        assert begun == []
        next(results)
        assert two_ahead.wait(PATIENCE_S)
        assert begun == [0, 1, 2]  # the thread has been given nothing more


def test_an_error_of_the_work_comes_out_in_its_place():
    results = work_ahead(lambda item: 6 // item, [3, 2, 0, 1], 2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError, match="division"):
        next(results)
    assert own_threads() == []


def test_closing_finishes_the_work_in_hand_forgets_the_rest_and_leaves_no_thread():
    begun, may_end = [], threading.Event()

    def work(item):
        begun.append(item)
        assert item == 0 or may_end.wait(PATIENCE_S)

    results = work_ahead(work, range(9), 3)
    next(results)
    while len(begun) < 2:
        pass
    threading.Timer(0.05, may_end.set).start()
    results.close()
    assert begun == [0, 1]
    assert own_threads() == []


# --- pictures rendered ahead -------------------------------------------------------------------------------------


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First slab of each chunk that was rendered, in order."""
    chunks: list[int] = []

    def show(planned, chunk, max_new_tokens):
        shown = show_chunk(planned, chunk, max_new_tokens)
        chunks.append(chunk.slabs[0].number)
        return shown

    monkeypatch.setattr("medvl.pipeline.reading.show_chunk", show)
    return chunks


@pytest.mark.parametrize("kind", [ScriptedReader, StreamingReader])
def test_the_next_two_chunks_are_rendered_while_one_is_read(bench, rendered, kind):
    def look(request):
        drawn = len(reader.calls)
        expected = min(drawn + 2, 4)
        for _ in range(PATIENCE_S * 100):
            if len(rendered) >= expected:
                break
            threading.Event().wait(0.01)
        assert len(rendered) == expected
        return '{"findings": []}'

    write_body(bench.input)  # four chunks
    reader = kind(look)
    bench.run(reader, batch=1)
    assert rendered == [1, 3, 6, 9]  # each once, over the borders of batches, too


def test_a_window_no_picture_can_be_made_with_is_told_after_what_came_before_is_kept(bench, monkeypatch):
    def show(planned, chunk, max_new_tokens):
        if chunk.slabs[0].number > 3:
            raise WindowError("No picture can be made")
        return show_chunk(planned, chunk, max_new_tokens)

    write_body(bench.input)
    monkeypatch.setattr("medvl.pipeline.reading.show_chunk", show)
    outcome = bench.run(ScriptedReader(report_bright))
    assert (outcome.studies[0].status, outcome.studies[0].problem) == ("failed", "No picture can be made.")
    assert len(list(bench.output.glob("*/*/ledger/sha256-*"))) == 2
    assert own_threads() == []


@pytest.mark.parametrize("kind", [ScriptedReader, StreamingReader])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_interrupt_leaves_no_thread_behind(bench, kind, call):
    write_body(bench.input)
    with pytest.raises(KeyboardInterrupt):
        bench.run(kind(report_bright, interrupt_at=call))
    assert own_threads() == []


def test_an_interrupt_between_two_chunks_stops_the_rendering_before_the_report_so_far_is_written(bench, monkeypatch):
    threads: list[list[str]] = []

    def interrupt(self, slice_count, finding_count):
        raise KeyboardInterrupt

    monkeypatch.setattr("medvl.pipeline.watch.Silence.chunk_ends", interrupt)
    monkeypatch.setattr("medvl.pipeline.watch.Silence.note", lambda self, text: threads.append(own_threads()))
    write_body(bench.input)
    with pytest.raises(KeyboardInterrupt):
        bench.run(ScriptedReader(report_bright))
    assert threads == [[]]
    assert bench.report().status == "partial"


def test_a_chunk_that_cannot_be_shown_at_all_is_told_among_those_that_can(bench, monkeypatch):
    def show(planned, chunk, max_new_tokens):
        shown = show_chunk(planned, chunk, max_new_tokens)
        return replace(shown, request=None) if chunk.slabs[0].number == 6 else shown

    write_body(bench.input)
    monkeypatch.setattr("medvl.pipeline.reading.show_chunk", show)
    reader = StreamingReader(report_bright)
    outcome = bench.run(reader, batch=2)
    unread = [fate.slice for fate in bench.report().series[0].slices if not fate.read_in]
    assert unread == [7, 8]  # 6 and 9 are in the chunks beside it
    assert {fate.not_read_because for fate in bench.report().series[0].slices if not fate.read_in} == {
        "none of its slices could be decoded"
    }
    assert outcome.exit_status == 4
