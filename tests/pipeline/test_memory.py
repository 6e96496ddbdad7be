import gc
import weakref
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.errors import ModelError, OutOfMemoryError
from medvl.pipeline.showing import show_chunk
from tests.pipeline.bench import (
    ROOMY,
    Bench,
    chunk_calls,
    is_impression,
    report_bright,
    timeless,
    write_body,
    write_checkpoint,
)
from tests.reader_fakes import ScriptedReader, StreamingReader, count_pictures

TOO_LARGE = "it did not fit into memory, even alone; choose a smaller --size or --precision"


def sizes(reader: ScriptedReader) -> list[tuple[int, ...]]:
    """Pictures per chunk, call by call, the impression left out."""
    calls = [tuple(count_pictures(request) for request in call) for call in reader.calls]
    return [call for call in calls if any(call)]


def coverage(bench: Bench) -> list[int]:
    return [len(fate.read_in) for fate in bench.report().series[0].slices]


def test_a_batch_that_does_not_fit_is_halved_and_its_size_not_tried_again(bench):
    write_body(bench.input)  # four chunks: 3, 4, 4 and 4 pictures
    reader = ScriptedReader(report_bright, picture_limit=8)
    outcome = bench.run(reader, batch=4)
    assert sizes(reader) == [(3, 4, 4, 4), (3, 4), (4, 4)]
    assert outcome.exit_status == 0


def test_later_batches_begin_with_what_did_fit(bench):
    write_body(bench.input)
    reader = ScriptedReader(picture_limit=4)
    bench.run(reader, batch=2)
    # (3, 4) fails; of (4, 4) it is known that it would.
    assert sizes(reader) == [(3, 4), (3,), (4,), (4,), (4,)]


def test_a_chunk_that_does_not_fit_is_halved_until_it_does(bench):
    write_body(bench.input)
    reader = ScriptedReader(report_bright, picture_limit=2)
    outcome = bench.run(reader)
    # Slices 1–3 become 1–2 and 2–3; 3–6 fails by what is known and becomes 3–5 and 5–6 … until none has more than two.
    assert sizes(reader)[:3] == [(3,), (2,), (2,)]
    assert {size for call in sizes(reader)[1:] for size in call} == {2}
    assert min(coverage(bench)) >= 1
    assert outcome.exit_status == 0
    [finding] = bench.report().findings
    assert (finding.first_slice, finding.last_slice) == (4, 6)


def test_chunks_finished_before_memory_ran_out_stay(bench):
    write_body(bench.input)
    with pytest.raises(KeyboardInterrupt):
        bench.run(ScriptedReader(report_bright, interrupt_at=3))
    second = ScriptedReader(report_bright, picture_limit=2)
    bench.run(second)
    # Two chunks of four were left. Four do not fit, then three do not; for the second chunk both are known.
    assert sizes(second) == [(4,), (2,), (3,), (2,), (2,), (2,), (2,), (2,)]
    views = bench.report().series[0].views
    assert [(view.chunks_read, view.chunk_count) for view in views] == [(views[0].chunk_count,) * 2]


def test_a_study_read_in_halves_is_finished_and_needs_no_model(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright, picture_limit=2))
    before = timeless(bench.output)
    bench.run()
    assert timeless(bench.output) == before


def test_a_run_that_ended_between_two_halves_reads_only_the_other_half(bench):
    write_body(bench.input, count=4)
    # One chunk of four fails, its first half of slices 1–3 fails, slices 1–2 are read, then the user interrupts.
    with pytest.raises(KeyboardInterrupt):
        bench.run(ScriptedReader(picture_limit=2, interrupt_at=4))
    second = ScriptedReader(picture_limit=2)
    bench.run(second)
    whole = Bench(bench.root / "whole")
    write_body(whole.input, count=4)
    write_checkpoint(whole.checkpoint)
    once = ScriptedReader(picture_limit=2)
    whole.run(once)
    assert chunk_calls(second) < chunk_calls(once)
    assert timeless(bench.output) == timeless(whole.output)


def test_a_picture_too_large_by_itself_leaves_its_slice_unread_with_the_reason(bench):
    write_body(bench.input)
    outcome = bench.run(ScriptedReader(picture_limit=0))
    [study] = outcome.studies
    assert (study.status, study.slices_read, outcome.exit_status) == ("partial", 0, 4)
    reasons = {fate.not_read_because for fate in bench.report().series[0].slices}
    assert reasons == {TOO_LARGE}
    assert bench.report().impression.sentences[0].text == "Nothing was read; nothing is known about this study."


def test_weights_that_do_not_fit_end_the_run_at_once(bench):
    opened = []

    def open_reader():
        opened.append(1)
        raise OutOfMemoryError("The weights do not fit", todo="Choose a smaller --precision")

    write_body(bench.input)
    from medvl.pipeline.run import StudyRun

    run = StudyRun(bench.settings(), bench.root / "store", open_reader=open_reader, device=ROOMY)
    with pytest.raises(ModelError, match=r"The weights do not fit\. Choose a smaller --precision"):
        run.read([bench.input])
    assert opened == [1]
    assert not list(bench.output.glob("*/*/report.json"))


@pytest.mark.parametrize("kind", [ScriptedReader, StreamingReader])
def test_no_more_pictures_are_held_than_are_read_and_two_chunks_ahead(bench, monkeypatch, kind):
    pictures: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def show(*chunk):
        shown = show_chunk(*chunk)
        pictures.extend(weakref.ref(part) for part in shown.request.parts if not isinstance(part, str))
        return shown

    def count_living(request):
        gc.collect()
        alive.append(sum(reference() is not None for reference in pictures))
        reader.calls.clear()  # the record would keep every picture alive
        return '{"findings": []}'

    monkeypatch.setattr("medvl.pipeline.reading.show_chunk", show)
    write_body(bench.input, count=60)
    gc.collect()  # what other tests left behind may raise warnings, whose tracebacks would hold our frames
    reader = kind(count_living)
    bench.run(reader, batch=2)
    assert len(pictures) == 79  # sixty slices and nineteen overlaps, in chunks of at most four
    assert max(alive) <= (2 + 2) * 4


# --- replies that do not depend on their neighbours --------------------------------------------------------------


def test_requests_join_as_others_end_until_memory_runs_out_and_then_in_half_as_many_rows(bench):
    write_body(bench.input)  # 3, 4, 4 and 4 pictures
    reader = StreamingReader(report_bright, picture_limit=8)
    assert bench.run(reader, batch=4).exit_status == 0
    # Three, seven, eleven: too many. In two rows: three, seven; the first ends: eight; the second ends: eight.
    assert sizes(reader) == [(3,), (4,), (4,), (3,), (4,), (4,), (4,)]
    assert reader.rows[:2] == [4, 2]


def test_what_ended_before_memory_ran_out_is_kept(bench):
    write_body(bench.input)
    reader = StreamingReader(report_bright, out_of_memory_at=[4])
    bench.run(reader, batch=3)
    # Three chunks are in progress, the first ends, and its successor does not fit: three are left, and one row.
    assert sizes(reader) == [(3,), (4,), (4,), (4,), (4,), (4,), (4,)]
    assert reader.rows[:2] == [3, 1]


def test_alone_in_memory_a_chunk_is_halved_and_no_chunk_as_long_is_tried_again(bench):
    write_body(bench.input)
    reader = StreamingReader(report_bright, picture_limit=2)
    outcome = bench.run(reader, batch=1)
    assert sizes(reader)[:3] == [(3,), (2,), (2,)]
    assert {size for call in sizes(reader)[1:] for size in call} == {2}
    assert (min(coverage(bench)), outcome.exit_status) == (1, 0)


def test_a_picture_too_large_by_itself_is_not_hidden_by_the_others(bench):
    write_body(bench.input, count=3)
    reader = StreamingReader(out_of_memory_at=[1, 2, 3])
    outcome = bench.run(reader, batch=1)
    # Three slices do not fit, two (1–2) do not, one does not: none is left to try.
    assert sizes(reader) == [(3,), (2,), (1,)]
    assert (outcome.studies[0].slices_read, outcome.exit_status) == (0, 4)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([ScriptedReader, StreamingReader]),
    fails=st.sets(st.integers(1, 25)),
    batch=st.integers(1, 5),
    chunk=st.integers(1, 5),
)
def test_whenever_memory_runs_out_every_slice_is_read_or_reported_and_nothing_is_read_twice(
    tmp_path_factory, kind, fails, batch, chunk
):
    answered: list[tuple[str, ...]] = []

    def note(request):
        if not is_impression(request):
            answered.append(tuple(part for part in request.parts if isinstance(part, str)))  # labels tell z
        return '{"findings": []}'

    bench = Bench(tmp_path_factory.mktemp("memory"))
    write_body(bench.input)
    reader = kind(note, out_of_memory_at=fails)
    outcome = bench.run(reader, batch=batch, chunk=str(chunk))
    assert len(set(answered)) == len(answered)
    if reader.independent:
        assert all(later < earlier or later == 1 for earlier, later in pairwise(reader.rows))
    slices = bench.report().series[0].slices
    assert {fate.not_read_because for fate in slices if not fate.read_in} <= {TOO_LARGE}
    assert (outcome.exit_status == 0) == all(fate.read_in for fate in slices)
    before = timeless(bench.output)
    if outcome.exit_status == 0:
        bench.run(batch=batch, chunk=str(chunk))  # from the ledger alone
        assert timeless(bench.output) == before


def test_a_reader_that_leaves_requests_unanswered_is_a_bug_and_not_asked_for_ever(bench):
    class Lazy(StreamingReader):
        def read(self, requests, rows):
            return islice(super().read(requests, rows), 2)

    write_body(bench.input)
    with pytest.raises(ValueError, match="the reader left 1 request without an answer"):
        bench.run(Lazy(), batch=2)
