from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.findings.merge import merge_findings
from medvl.findings.wording import are_compatible
from medvl.records import Box, Finding
from tests.findings.builders import make_finding


def moved(x_mm: float, **changed: object) -> Finding:
    """The finding of `make_finding`, moved to the patient's left; one box unit is 0.5 mm."""
    finding = make_finding(**changed)
    assert finding.center_lps_mm is not None
    x, y, z = finding.center_lps_mm
    box = replace(finding.box, x1=finding.box.x1 + 2 * x_mm, x2=finding.box.x2 + 2 * x_mm)
    return replace(finding, box=box, center_lps_mm=(x + x_mm, y, z))


def test_one_lesion_seen_by_two_overlapping_chunks_is_one_finding() -> None:
    early = make_finding(
        first_slice=10, last_slice=12, key_slice=11, extent_mm=(-25.5, -18.5), chunks=(0,), confidence=0.4
    )
    late = make_finding(
        first_slice=12, last_slice=14, key_slice=13, extent_mm=(-29.5, -22.5), chunks=(1,), confidence=0.9
    )
    [finding] = merge_findings([early, late])
    assert (finding.number, finding.first_slice, finding.last_slice, finding.chunks) == (1, 10, 14, (0, 1))
    assert (finding.key_slice, finding.confidence) == (13, 0.9)
    assert (finding.extent_mm, finding.depth_mm) == ((-29.5, -18.5), 11.0)


def test_slices_that_touch_belong_together_and_others_do_not() -> None:
    early = make_finding(first_slice=8, last_slice=10, key_slice=9)
    assert len(merge_findings([early, make_finding()])) == 1  # begins with slice 11
    assert len(merge_findings([early, make_finding(first_slice=12, key_slice=12)])) == 2


def test_another_window_of_the_same_place_is_the_same_finding() -> None:
    [finding] = merge_findings([make_finding(), make_finding(view="mediastinum", confidence=0.8)])
    assert finding.view == "mediastinum"


def test_pictures_without_a_place_in_the_patient_are_no_neighbours() -> None:
    # A frontal and a lateral film of one series: consecutive numbers, like boxes, two different places.
    unplaced = {"center_lps_mm": None, "width_mm": None, "height_mm": None, "depth_mm": None, "extent_mm": None}
    frontal = make_finding(**unplaced, first_slice=1, last_slice=1, key_slice=1, sop_instance_uid="1.2.1")
    lateral = make_finding(**unplaced, first_slice=2, last_slice=2, key_slice=2, sop_instance_uid="1.2.2")
    assert len(merge_findings([frontal, lateral])) == 2
    assert len(merge_findings([frontal, replace(frontal, view="75/215")])) == 1


@pytest.mark.parametrize(("x_mm", "count"), [(7.0, 1), (8.0, 2)])
def test_lesions_are_one_within_half_their_mean_diameter(x_mm: float, count: int) -> None:
    assert len(merge_findings([make_finding(), moved(x_mm)])) == count  # 20 × 10 mm: 15 mm, half is 7.5


@pytest.mark.parametrize(("x_mm", "count"), [(4.9, 1), (5.1, 2)])
def test_small_lesions_are_one_within_five_millimetres(x_mm: float, count: int) -> None:
    small = {"box": Box(200, 400, 208, 408), "width_mm": 4.0, "height_mm": 4.0}
    assert len(merge_findings([make_finding(**small), moved(x_mm, **small)])) == count


def test_findings_of_different_series_stay_apart() -> None:
    assert len(merge_findings([make_finding(), make_finding(series_uid="1.10")])) == 2


def test_stacks_in_other_planes_stay_apart_although_slice_numbers_agree() -> None:
    assert len(merge_findings([make_finding(), make_finding(center_lps_mm=(100.0, 60.0, 10.0))])) == 2


def test_without_millimetres_boxes_must_overlap() -> None:
    unknown = {"center_lps_mm": None, "width_mm": None, "height_mm": None, "depth_mm": None, "extent_mm": None}
    here = make_finding(**unknown)
    near = make_finding(**unknown, box=Box(210, 400, 250, 420))  # 30 of 50 units in common: 0.6
    far = make_finding(**unknown, box=Box(230, 400, 270, 420))  # 10 of 70: 0.14
    assert len(merge_findings([here, near])) == 1
    assert len(merge_findings([here, far])) == 2


def test_differing_words_are_kept_in_sight() -> None:
    mass = make_finding(observation="mass", key_slice=13, view="mediastinum", confidence=0.3)
    [finding] = merge_findings([make_finding(), mass])
    assert finding.observation == "nodule"
    assert finding.notes == ("also reported as “mass” on slice 13 (mediastinum)",)


def test_differing_sides_are_kept_in_sight() -> None:
    [finding] = merge_findings([make_finding(), make_finding(side="midline", key_slice=13, confidence=0.3)])
    assert finding.side == "right"
    assert finding.notes == ("the side was also given as midline on slice 13 (lung)",)


def test_incompatible_words_at_one_place_stay_apart() -> None:
    assert len(merge_findings([make_finding(), make_finding(observation="rib fracture")])) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Nodule", "pulmonary nodules"),
        ("spiculated mass", "solid lesion"),
        ("ground-glass opacity", "nodule"),
        ("pleural effusion", "fluid in the pleural space"),
        ("subdural hematoma", "haemorrhage"),
        ("liver metastases", "hepatic metastasis"),
        ("右肺上叶结节", "实性肿块"),
        ("Cavity", "cavities"),
    ],
)
def test_words_of_one_family_are_compatible(one: str, other: str) -> None:
    assert are_compatible(one, other)
    assert are_compatible(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nodule", "effusion"),
        ("cavity", "bulla"),
        ("胸腔积液", "肺结节"),
        ("atelectasis", "pneumothorax"),
        ("", "mass"),
    ],
)
def test_other_words_are_not(one: str, other: str) -> None:
    assert not are_compatible(one, other)


def test_findings_are_numbered_by_slice_then_position() -> None:
    low = make_finding(first_slice=40, last_slice=41, key_slice=40)
    right, left = moved(0), moved(200)
    assert [finding.box.x1 for finding in merge_findings([low, left, right])] == [200, 600, 200]
    assert [finding.number for finding in merge_findings([low, left, right])] == [1, 2, 3]


def test_nothing_merges_to_nothing() -> None:
    assert merge_findings([]) == ()


@st.composite
def any_findings(draw: st.DrawFn) -> list[Finding]:
    """Up to eight findings crowded into few slices and few places, so that many of them meet."""
    findings = []
    for _ in range(draw(st.integers(0, 8))):
        first = draw(st.integers(1, 8))
        last = first + draw(st.integers(0, 3))
        finding = moved(
            draw(st.integers(0, 12)),
            first_slice=first,
            last_slice=last,
            key_slice=draw(st.integers(first, last)),
            observation=draw(st.sampled_from(["nodule", "opacity", "consolidation", "effusion", "cavity"])),
            side=draw(st.sampled_from(["left", "right", "midline"])),
            confidence=draw(st.sampled_from([None, 0.2, 0.9])),
            view=draw(st.sampled_from(["lung", "mediastinum"])),
            extent_mm=(-2.0 * last, -2.0 * first + 2),
            depth_mm=2.0 * (last - first) + 2,
            chunks=(draw(st.integers(0, 2)),),
        )
        unplaced = replace(finding, center_lps_mm=None, width_mm=None, height_mm=None, depth_mm=None, extent_mm=None)
        findings.append(draw(st.sampled_from([finding, finding, unplaced])))
    return findings


@settings(deadline=None)
@given(any_findings(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(findings: list[Finding], random: Random) -> None:
    shuffled = list(findings)
    random.shuffle(shuffled)
    assert merge_findings(shuffled) == merge_findings(findings)


@settings(deadline=None)
@given(any_findings())
def test_merging_again_changes_nothing(findings: list[Finding]) -> None:
    merged = merge_findings(findings)
    assert merge_findings(merged) == merged


@settings(deadline=None)
@given(any_findings())
def test_merging_never_adds_findings_and_never_loses_a_slice(findings: list[Finding]) -> None:
    merged = merge_findings(findings)
    assert len(merged) <= len(findings)
    for finding in findings:
        assert any(one.first_slice <= finding.first_slice and finding.last_slice <= one.last_slice for one in merged)


def test_a_chunk_that_saw_only_the_rim_does_not_decide_the_place() -> None:
    rim = make_finding(
        first_slice=12, last_slice=12, key_slice=12, box=Box(234, 414, 246, 426), confidence=0.99, chunks=(0,)
    )
    whole = make_finding(
        first_slice=12, last_slice=16, key_slice=14, box=Box(220, 410, 260, 430), confidence=0.5, chunks=(1,)
    )
    [merged] = merge_findings([rim, whole])
    assert (merged.key_slice, merged.box, merged.confidence, merged.chunks) == (14, whole.box, 0.99, (0, 1))
