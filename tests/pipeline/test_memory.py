import gc
import weakref

import numpy as np
import pytest

from medvl.errors import ModelError, OutOfMemoryError
from tests.pipeline.bench import ROOMY, Bench, chunk_calls, report_bright, timeless, write_body, write_checkpoint
from tests.reader_fakes import ScriptedReader, count_pictures


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
    assert reasons == {"it did not fit into memory, even alone; choose a smaller --size or --precision"}
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


def test_no_more_than_a_batch_of_pictures_is_held_at_once(bench):
    alive: list[int] = []
    pictures: list[weakref.ref[np.ndarray]] = []

    def count_living(request):
        gc.collect()
        alive.append(sum(reference() is not None for reference in pictures))
        pictures.extend(weakref.ref(part) for part in request.parts if not isinstance(part, str))
        return '{"findings": []}'

    class Forgetful(ScriptedReader):
        def read(self, requests):
            readings = super().read(requests)
            self.calls.clear()  # the record would keep every picture alive
            return readings

    write_body(bench.input, count=60)
    gc.collect()  # what other tests left behind may raise warnings, whose tracebacks would hold our frames
    bench.run(Forgetful(count_living), batch=2)
    # Nineteen overlaps and sixty slices were shown; when a batch begins, nothing of an earlier one is left.
    assert len(pictures) == 79
    assert max(alive) <= 4
