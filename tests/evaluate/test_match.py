from __future__ import annotations

import pytest

from medvl.evaluate.match import hit_mm, is_target, match_findings
from tests.evaluate.builders import finding, lesion

FLUID = lesion(60, kind="pleural effusion", diameter_mm=20.0, sop_instance_uids=("1.1", "1.2"))


def test_a_nodule_is_hit_within_its_radius() -> None:
    large = lesion(diameter_mm=20.0)
    assert hit_mm(finding(10.0), large) == 10.0
    assert hit_mm(finding(10.1), large) is None


def test_a_small_nodule_is_hit_within_5_mm_in_space() -> None:
    small = lesion(diameter_mm=4.0)
    assert hit_mm(finding(center_lps_mm=(3.0, 0.0, 4.0)), small) == 5.0
    assert hit_mm(finding(center_lps_mm=(3.0, 3.0, 3.0)), small) is None  # 5.2 mm


def test_an_effusion_is_hit_by_a_box_on_one_of_its_slices_that_holds_its_centre() -> None:
    box = finding(90, sop_instance_uid="1.2", width_mm=80.0, height_mm=100.0)  # from x = 50 to 130
    assert hit_mm(box, FLUID) == 30.0
    assert hit_mm(finding(90, sop_instance_uid="1.2", width_mm=58.0, height_mm=100.0), FLUID) is None
    assert hit_mm(finding(90, sop_instance_uid="1.9", width_mm=80.0, height_mm=100.0), FLUID) is None


def test_a_finding_without_a_place_hits_nothing() -> None:
    assert hit_mm(finding(center_lps_mm=None), lesion()) is None
    assert hit_mm(finding(60, width_mm=None), FLUID) is None


def test_each_lesion_is_matched_once_by_the_surest_finding() -> None:
    near, sure = finding(1.0, 0.6, number=1), finding(3.0, 0.8, number=2)
    matching = match_findings([near, sure], [lesion()])
    assert [match.finding.number for match in matching.matches] == [2]
    assert [each.number for each in matching.false] == [1]
    assert matching.duplicate_count == 1


def test_a_finding_between_two_lesions_takes_the_nearer_one() -> None:
    lesions = [lesion(0.0), lesion(8.0)]
    matching = match_findings([finding(5.0)], lesions)
    assert [match.lesion for match in matching.matches] == [lesions[1]]
    assert matching.missed == (lesions[0],)
    assert matching.duplicate_count == 0


def test_a_finding_elsewhere_is_false_and_no_duplicate() -> None:
    matching = match_findings([finding(50.0)], [lesion()])
    assert (len(matching.false), matching.duplicate_count, len(matching.missed)) == (1, 0, 1)


def test_a_finding_without_confidence_comes_first() -> None:
    matching = match_findings([finding(0.0, 0.99, number=1), finding(2.0, None, number=2)], [lesion()])
    assert [match.finding.number for match in matching.matches] == [2]


@pytest.mark.parametrize(("diameter_mm", "counts"), [(5.9, False), (6.0, True)])
def test_nodules_count_from_6_mm_on(diameter_mm: float, counts: bool) -> None:
    assert is_target(lesion(diameter_mm=diameter_mm)) is counts


def test_an_effusion_counts_however_shallow() -> None:
    assert is_target(lesion(kind="pleural effusion", diameter_mm=3.0))
