from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from medvl.report.coverage import Span, coverage_of, group_by_reason
from tests.report.examples import a_partial_report, a_report, a_series


def test_a_whole_series_is_one_strip_of_runs_cut_at_the_overlaps():
    strip = coverage_of(a_report())[0].strips[0]
    assert (strip.slice_count, strip.read_count, strip.length) == (100, 100, 100)
    # 11 chunks of ten slices share slices 10, 19, … 91: eleven stretches and ten shared slices between them.
    assert len(strip.runs) == 21
    assert [(run.first, run.last, run.chunks) for run in strip.runs[:3]] == [
        (1, 9, (0,)),
        (10, 10, (0, 1)),
        (11, 18, (1,)),
    ]
    assert strip.chunks[1] == Span(index=1, first=10, last=19)
    assert strip.chunks[-1] == Span(index=10, first=91, last=100)
    assert strip.positions_mm == (5.0, -292.0)


def test_slices_after_an_interruption_are_one_unread_run_with_its_reason():
    strip = coverage_of(a_partial_report())[0].strips[0]
    last = strip.runs[-1]
    assert (last.first, last.last, last.count, last.chunks) == (56, 100, 45, ())
    assert last.reason == "the run was interrupted before this chunk"
    assert strip.read_count == 55  # six chunks reach slice 6 × 9 + 1


def test_a_slice_read_in_one_view_is_unread_in_the_other():
    series = a_series()
    bone = replace(series.views[0], name="bone")
    lung, unread = coverage_of(a_report(series=(replace(series, views=(*series.views, bone)),)))[0].strips
    assert lung.read_count == 100
    assert unread.read_count == 0
    assert [(run.first, run.last, run.reason) for run in unread.runs] == [(1, 100, "")]


def test_frames_without_a_place_are_listed_with_their_reason():
    scout = coverage_of(a_report())[1]
    assert scout.strips == ()
    assert [(group.count, group.names) for group in scout.outside] == [
        (2, ("CT_case/scout-1.dcm", "CT_case/scout-2.dcm"))
    ]


def test_ordered_frames_of_a_series_that_was_not_chosen_are_listed_too():
    series = replace(a_series(chunks_read=0, interrupted="another reconstruction was read"), views=(), chosen=False)
    covered = coverage_of(a_report(series=(series,)))[0]
    assert covered.outside[0].count == 100
    assert covered.outside[0].reason == "another reconstruction was read"


def test_findings_are_drawn_on_the_strip_they_were_seen_in():
    strip = coverage_of(a_report())[0].strips[0]
    assert strip.findings == (Span(1, 41, 44), Span(2, 78, 96), Span(3, 63, 63))


def test_files_are_grouped_by_reason_and_named_once():
    groups = group_by_reason([("a", "broken", 1), ("b", "not an image", 3), ("a", "broken", 2)])
    assert [(group.reason, group.names, group.count) for group in groups] == [
        ("broken", ("a",), 3),
        ("not an image", ("b",), 3),
    ]


@given(slice_count=st.integers(2, 60), share=st.floats(0, 1), misplaced=st.sets(st.integers(0, 59)))
def test_every_frame_is_in_exactly_one_run_or_group(slice_count, share, misplaced):
    series = a_series(slice_count)
    series = a_series(slice_count, round(share * series.views[0].chunk_count), interrupted="interrupted")
    fates = tuple(
        replace(fate, slice=None, read_in=(), not_read_because="duplicate position") if i in misplaced else fate
        for i, fate in enumerate(series.slices)
    )
    covered = coverage_of(a_report(series=(replace(series, slices=fates),)))[0]
    in_runs = sum(strip.slice_count for strip in covered.strips)
    assert in_runs + sum(group.count for group in covered.outside) == slice_count
