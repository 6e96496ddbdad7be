from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.findings.merge import merge_findings
from medvl.findings.places import Scene
from medvl.records import Box, Finding
from tests.findings.builders import make_finding
from tests.findings.test_merge import any_findings

HEAD, POSTERIOR = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)


def scene(series_uid: str = "1.9", view: str = "lung", **changed: object) -> Scene:
    """Slices 8 to 20 of a stack, each a picture, in two chunks that share slice 13."""
    numbers = {"series_name": f"series {series_uid[-1]}", "stack": series_uid, "frame_of_reference_uid": "1.3"}
    chunks = {2: tuple((n, n) for n in range(8, 14)), 3: tuple((n, n) for n in range(13, 21))}
    facts: dict[str, object] = {**numbers, "normal": HEAD, "chunks": chunks}
    return Scene(series_uid, view, **(facts | changed))


def phase(first_slice: int, **changed: object) -> Finding:
    """The nodule of `make_finding`, seen in the second phase, whose slices begin elsewhere."""
    slices = {"first_slice": first_slice, "last_slice": first_slice + 2, "key_slice": first_slice + 1}
    return make_finding(**{"view": "stack 2 (venous), lung", **slices, **changed})


PHASES = (scene(), scene(view="stack 2 (venous), lung", stack="venous"))


def test_one_lesion_in_phases_of_different_ranges_is_one_finding_that_says_where_it_was_seen():
    [finding] = merge_findings([make_finding(box=Box(200, 400, 241, 420)), phase(41)], PHASES)
    assert (finding.view, finding.first_slice, finding.last_slice, finding.extent_mm) == (
        "lung",
        11,
        13,
        (-27.5, -20.5),
    )
    assert "also seen on slices 41–43 (stack 2 (venous), lung)" in finding.notes


def test_lesions_of_two_phases_with_equal_slice_numbers_stay_apart_where_they_lie_apart():
    # 30 mm nearer to the head, though both are on slices 11 to 13 of their stacks.
    other = phase(11, center_lps_mm=(-140.0, -45.0, 6.0), extent_mm=(2.5, 9.5))
    assert len(merge_findings([make_finding(), other], PHASES)) == 2


@pytest.mark.parametrize(("x_mm", "count"), [(7.4, 1), (7.6, 2)])
def test_across_stacks_centres_lie_within_half_the_mean_diameter_in_the_plane(x_mm: float, count: int):
    other = phase(41, center_lps_mm=(-140.0 + x_mm, -45.0, -24.0))  # 20 × 10 mm: 15 mm, half is 7.5
    assert len(merge_findings([make_finding(), other], PHASES)) == count


@pytest.mark.parametrize(("z_mm", "count"), [(7.9, 1), (8.1, 2)])
def test_across_stacks_extents_touch_within_a_millimetre(z_mm: float, count: int):
    # Both are 7 mm deep: 3.5 + 3.5 + 1 mm between their middles at most.
    other = phase(41, center_lps_mm=(-140.0, -45.0, -24.0 + z_mm), extent_mm=(-27.5 + z_mm, -20.5 + z_mm))
    assert len(merge_findings([make_finding(), other], PHASES)) == count


def test_a_thick_and_a_thin_series_of_one_frame_of_reference_share_their_lesions():
    thick = make_finding(series_uid="1.7", first_slice=5, last_slice=5, key_slice=5, extent_mm=(-26.5, -21.5))
    scenes = [scene(), scene("1.7", chunks={0: ((4, 4), (5, 5))})]
    [finding] = merge_findings([make_finding(width_mm=21.0), thick], scenes)
    assert (finding.series_uid, finding.first_slice, finding.last_slice) == ("1.9", 11, 13)
    assert "also seen on slice 5 (series 7, lung)" in finding.notes


@pytest.mark.parametrize(
    ("ours", "theirs", "series_uid", "count"),
    [
        ("1.3", "1.4", "1.7", 2),
        ("1.3", "1.4", "1.9", 2),
        ("", "", "1.7", 2),  # nothing says that the two share a space
        ("", "", "1.9", 1),  # stacks of one series do
    ],
)
def test_positions_of_different_frames_of_reference_have_nothing_to_do_with_each_other(ours, theirs, series_uid, count):
    scenes = [
        scene(frame_of_reference_uid=ours),
        scene(series_uid, "stack 2 (venous), lung", stack="venous", frame_of_reference_uid=theirs),
    ]
    assert len(merge_findings([make_finding(), phase(41, series_uid=series_uid)], scenes)) == count


@pytest.mark.parametrize(("x_mm", "count"), [(6.9, 1), (8.0, 2)])
def test_planes_that_cross_are_compared_by_middles_in_space(x_mm: float, count: int):
    # Coronal, from y = −48 to −42; its middle is the same point but for x.
    coronal = make_finding(
        series_uid="1.7", extent_mm=(-48.0, -42.0), depth_mm=6.0, center_lps_mm=(-140.0 + x_mm, -45.0, -24.0)
    )
    scenes = [scene(), scene("1.7", normal=POSTERIOR)]
    assert len(merge_findings([make_finding(), coronal], scenes)) == count


def test_the_middle_of_a_lesion_is_not_its_key_slice():
    # Seen from the rim at z = −24 to the head up to z = −4: its middle is at −14, 9 mm above the other's lower end.
    tall = make_finding(extent_mm=(-24.0, -4.0), depth_mm=20.0)
    above = phase(41, center_lps_mm=(-140.0, -45.0, -3.0), extent_mm=(-5.0, -1.0))
    assert len(merge_findings([tall, above], PHASES)) == 1


def test_without_pixel_spacing_stacks_cannot_be_compared_in_space():
    flat = {"center_lps_mm": None, "width_mm": None, "height_mm": None}
    assert len(merge_findings([make_finding(**flat), phase(41, **flat)], PHASES)) == 2


# --- what is marked ----------------------------------------------------------------------------------------------


def test_a_finding_on_a_single_picture_says_so():
    [finding] = merge_findings([make_finding(first_slice=10, last_slice=10, key_slice=10)], [scene()])
    assert finding.notes == ("reported once, on a single picture; its neighbours were read, too",)


def test_a_finding_on_several_pictures_or_the_only_one_says_nothing():
    [several] = merge_findings([make_finding(last_slice=12)], [scene()])
    [alone] = merge_findings([make_finding(last_slice=11, key_slice=11)], [scene(chunks={2: ((11, 11),)})])
    assert (several.notes, alone.notes) == ((), ())


def test_a_chunk_that_showed_the_place_too_and_did_not_report_it_is_named():
    [finding] = merge_findings([make_finding(chunks=(2,))], [scene()])  # slice 13 of 11 to 13 is in both chunks
    assert finding.notes == ("slice 13 read in chunk 4, too (lung), which did not report it",)


def test_a_finding_that_both_chunks_reported_was_not_missed():
    both = [make_finding(chunks=(2,)), make_finding(first_slice=13, key_slice=13, chunks=(3,))]
    [finding] = merge_findings(both, [scene()])
    assert finding.notes == ()


def test_two_names_for_one_place_are_both_kept_and_each_names_the_other():
    first, second = merge_findings([make_finding(), make_finding(observation="rib fracture")])
    assert first.notes == ("another finding has another name for this place: “rib fracture”",)
    assert second.notes == ("another finding has another name for this place: “nodule”",)


def test_other_words_of_another_series_name_the_series():
    mass = make_finding(series_uid="1.7", observation="mass", side="left", key_slice=12)
    [finding] = merge_findings([make_finding(width_mm=21.0), mass], [scene(), scene("1.7")])
    assert "also reported as “mass” on slice 12 (series 7, lung)" in finding.notes
    assert "the side was also given as left on slice 12 (series 7, lung)" in finding.notes


VIEWS = [scene("1.9", "lung"), scene("1.9", "mediastinum"), scene("1.7", "lung", stack="thick")]


@st.composite
def findings_of_views(draw: st.DrawFn) -> list[Finding]:
    return [replace(each, series_uid=draw(st.sampled_from(["1.9", "1.7"]))) for each in draw(any_findings())]


@settings(deadline=None)
@given(findings_of_views(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter_across_stacks(findings: list[Finding], random: Random) -> None:
    shuffled = list(findings)
    random.shuffle(shuffled)
    assert merge_findings(shuffled, VIEWS) == merge_findings(findings, VIEWS)


@settings(deadline=None)
@given(findings_of_views())
def test_merging_again_changes_no_finding_across_stacks(findings: list[Finding]) -> None:
    merged = merge_findings(findings, VIEWS)
    again = merge_findings(merged, VIEWS)
    assert [replace(each, notes=()) for each in again] == [replace(each, notes=()) for each in merged]
