from __future__ import annotations

from pathlib import Path

import pytest

from medvl.errors import OutputError
from medvl.evaluate.cases import case_seeds, draw_case, write_cases, write_counterfactuals
from medvl.evaluate.write import read_truth
from tests.evaluate.builders import draw_small


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_more_cases_begin_with_the_same_ones() -> None:
    assert case_seeds(7, 5)[:3] == case_seeds(7, 3)


def test_two_evaluations_share_no_phantom() -> None:
    assert len({*case_seeds(1, 50), *case_seeds(2, 50)}) == 100


def test_drawn_cases_vary_in_how_they_are_scanned() -> None:
    acquisitions = [draw_case(seed)[1] for seed in case_seeds(1, 8)]
    assert len({each.pixel_spacing_mm for each in acquisitions}) == 8
    assert len({each.storage.name for each in acquisitions}) > 2


def test_a_case_lies_beside_its_truth(tmp_path: Path) -> None:
    told: list[int] = []
    cases = write_cases(tmp_path, [1, 3], draw=draw_small, told=told.append)
    assert told == [1, 2]
    assert [len(case.truth.lesions) for case in cases] == [1, 0]
    for case, seed in zip(cases, (1, 3), strict=True):
        assert case.study == tmp_path / str(seed) / "plain"
        assert len(list(case.study.glob("*.dcm"))) == 12
        assert read_truth(tmp_path / str(seed) / "plain.json") == case.truth


def test_cases_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, [1], draw=draw_small)
    copies = write_counterfactuals(case)
    before = times(tmp_path)
    assert write_cases(tmp_path, [1], draw=draw_small) == (case,)
    assert write_counterfactuals(case) == copies
    assert times(tmp_path) == before
    assert len(before) == 4 * (12 + 1)  # plain, mirrored, blank, shuffled; each with its truth


def test_half_a_case_is_written_again(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, [1], draw=draw_small)
    whole = sorted(times(tmp_path))
    (tmp_path / "1" / "plain.json").write_text('{"format": 1, "se')
    next(case.study.glob("*.dcm")).unlink()
    (case.study / "left over.dcm").write_bytes(b"half a slice")
    assert write_cases(tmp_path, [1], draw=draw_small) == (case,)
    assert sorted(times(tmp_path)) == whole


def test_a_case_of_another_phantom_is_replaced_with_its_copies(tmp_path: Path) -> None:
    (old,) = write_cases(tmp_path, [1], draw=lambda _: draw_small(2))
    write_counterfactuals(old)
    (new,) = write_cases(tmp_path, [1], draw=draw_small)
    assert new.truth.seed == 1
    assert [path.name for path in sorted((tmp_path / "1").iterdir())] == ["plain", "plain.json"]


def test_several_processes_write_the_same_cases(tmp_path: Path) -> None:
    alone = write_cases(tmp_path / "alone", [1, 3], draw=draw_small)
    together = write_cases(tmp_path / "together", [1, 3], draw=draw_small, jobs=2)
    assert [case.truth for case in together] == [case.truth for case in alone]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_cases(tmp_path / "file", [1], draw=draw_small)
