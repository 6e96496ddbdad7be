"""The whole line on small phantoms, with readers that know the truth, ignore it, or get the sides wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from medvl.errors import InputError
from medvl.evaluate.harness import Evaluation, Wish, evaluate_phantoms, evaluate_reports
from medvl.evaluate.table import print_evaluation
from medvl.planning.device import Device
from medvl.reader.tiny import build_tiny_checkpoint
from medvl.records import Request
from medvl.settings import Looks, Settings
from tests.evaluate.builders import answers_from_truth, draw_small
from tests.reader_fakes import ScriptedReader

SEED = 1
SEEDS = (1, 2, 3, 4)  # phantom 3 is normal, the others have one nodule
STUDIES = [draw_small(seed) for seed in SEEDS]
DEVICE = Device("cpu", "CPU", 16 * 2**30, 8 * 2**30)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_checkpoint(folder)
    return folder


@pytest.fixture(autouse=True)
def phantoms_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvl.evaluate.harness.case_seeds", lambda seed, count: SEEDS[:count])


@pytest.fixture
def evaluated(tmp_path: Path, checkpoint: Path) -> Callable[..., Evaluation]:
    def evaluate(
        script: Callable[[Request], str],
        *,
        counterfactuals: bool = False,
        count: int = len(SEEDS),
        second_look: Looks = "off",
    ) -> Evaluation:
        reader = ScriptedReader(script, probability=0.99)
        readers.append(reader)
        return evaluate_phantoms(
            Wish(count, SEED, counterfactuals),
            Settings(
                output=tmp_path, model=str(checkpoint), size_px=128, slab="off", chunk="12", second_look=second_look
            ),
            tmp_path / "store",
            open_reader=lambda: reader,
            device=DEVICE,
            draw=draw_small,
        )

    readers: list[ScriptedReader] = []
    evaluate.readers = readers  # type: ignore[attr-defined]
    return evaluate


def nothing(_: Request) -> str:
    return '{"findings": []}'


def test_a_reader_that_knows_the_truth_gets_everything_right(evaluated: Callable[..., Evaluation]) -> None:
    score = evaluated(answers_from_truth(STUDIES)).score
    assert (score.sensitivity.hits, score.sensitivity.total) == (3, 3)
    assert (score.false_count, score.normal_called_normal.hits, score.complete.hits) == (0, 1, 4)
    assert (score.side_right.hits, score.side_said_right.hits, score.named_right.hits) == (3, 3, 3)
    assert score.center_error_mm.median is not None
    assert score.center_error_mm.median <= 1.6  # half a slice
    assert score.diameter_error_mm.median == pytest.approx(0.0, abs=0.4)  # a thousandth of the field of view
    assert score.replies_mended.hits == 0


def test_a_second_look_takes_back_what_is_not_there(evaluated: Callable[..., Evaluation]) -> None:
    knows = answers_from_truth(STUDIES)

    def invents(request: Request) -> str:
        if "checking one finding" in str(request.parts[0]):
            return json.dumps({"answer": "no" if "Is there a mass" in str(request.parts[-1]) else "yes"})
        found = json.loads(knows(request))["findings"]
        ghost = {"slice": 1, "bbox_2d": [480, 20, 520, 60], "first_slice": 1, "last_slice": 1, "observation": "mass"}
        return json.dumps({"findings": [*found, {**ghost, "site": "", "side": "none", "certainty": "possible"}]})

    before, after = (evaluated(invents, second_look=looks) for looks in ("off", "findings"))
    assert (before.score.false_count, after.score.false_count) == (4, 0)  # one in each study
    assert (after.score.sensitivity.hits, after.score.sensitivity.total) == (3, 3)
    assert (after.score.contradicted.hits, after.score.contradicted.total) == (4, 4)
    assert [len(case.contradicted) for case in after.cases] == [1, 1, 1, 1]
    assert [len(case.false) for case in after.cases] == [0, 0, 0, 0]


def test_a_blind_reader_finds_nothing_and_invents_nothing(evaluated: Callable[..., Evaluation]) -> None:
    score = evaluated(nothing).score
    assert (score.sensitivity.hits, score.sensitivity.total) == (0, 3)
    assert (score.false_count, score.normal_called_normal.hits) == (0, 1)


def test_a_reader_that_says_the_wrong_side_is_told_from_geometry(evaluated: Callable[..., Evaluation]) -> None:
    script = answers_from_truth(STUDIES, lambda one: {"side": "right" if one.side == "left" else "left"})
    score = evaluated(script).score
    assert (score.side_right.hits, score.side_said_right.hits, score.side_right.total) == (3, 0, 3)


def test_a_reader_that_does_not_look_fails_every_counterfactual(evaluated: Callable[..., Evaluation]) -> None:
    """It answers by slice position alone: the old side, lesions in blank pictures, and none where they went."""
    evaluation = evaluated(answers_from_truth(STUDIES), counterfactuals=True)
    before = {each.how: each.before for each in evaluation.counterfactuals}
    after = {each.how: each.after for each in evaluation.counterfactuals}
    assert [each.sensitivity.hits for each in before.values()] == [3, 3, 3]
    assert after["mirrored"].sensitivity.hits == 0
    assert (after["blank"].false_count, after["blank"].normal_called_normal.hits) == (3, 0)
    assert after["shuffled"].sensitivity.hits < 3
    assert evaluation.score.study_count == 4  # the copies do not count for the score


def test_an_evaluation_resumes(evaluated: Callable[..., Evaluation]) -> None:
    first = evaluated(answers_from_truth(STUDIES), count=2)
    again = evaluated(nothing, count=2)
    assert again.score.sensitivity == first.score.sensitivity
    assert [len(reader.calls) > 0 for reader in evaluated.readers] == [True, False]  # type: ignore[attr-defined]


def test_a_study_that_fails_counts_as_missed(evaluated: Callable[..., Evaluation], tmp_path: Path) -> None:
    evaluated(nothing, count=1)
    for path in (tmp_path / "cases" / "1" / "plain").glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-30000])
    evaluation = evaluated(answers_from_truth(STUDIES), count=2)
    assert (evaluation.score.sensitivity.hits, evaluation.score.sensitivity.total) == (1, 2)
    assert (evaluation.score.complete.hits, evaluation.exit_status) == (1, 4)


def test_each_case_names_its_report_and_what_was_missed(evaluated: Callable[..., Evaluation], tmp_path: Path) -> None:
    evaluation = evaluated(answers_from_truth(STUDIES[:1], lambda one: {"bbox_2d": [1, 1, 9, 9]}), count=1)
    (case,) = evaluation.cases
    assert (case.found, case.missed, case.false) == ((), (0,), (1,))
    assert (tmp_path / case.report).is_file()


def test_existing_reports_are_scored_against_truth_files(evaluated: Callable[..., Evaluation], tmp_path: Path) -> None:
    measured = evaluated(answers_from_truth(STUDIES), count=3)
    truths = [tmp_path / "cases" / str(seed) / "plain.json" for seed in SEEDS[:3]]
    reports = [tmp_path / case.report for case in reversed(measured.cases)]
    scored = evaluate_reports(truths, reports)
    assert scored.score == measured.score
    assert evaluate_reports(truths[:1], [reports[2].parent]).score.sensitivity.hits == 1  # the folder will do


def test_a_truth_without_its_report_is_refused(evaluated: Callable[..., Evaluation], tmp_path: Path) -> None:
    measured = evaluated(nothing, count=2)
    truths = [tmp_path / "cases" / str(seed) / "plain.json" for seed in SEEDS[:2]]
    reports = [tmp_path / case.report for case in measured.cases]
    for wrong in ((truths[:1], reports[1:]), (truths, reports[:1]), (truths[:1] * 2, reports[:1]), ([], [])):
        with pytest.raises(InputError, match="do not make pairs"):
            evaluate_reports(*wrong)


def test_a_truth_written_by_hand_is_checked(tmp_path: Path) -> None:
    lesion = {
        "kind": "solid nodule",
        "center_lps_mm": [1.0, 2.0, "three"],
        "diameter_mm": 8,
        "side": "left",
        "hu": 40,
        "sop_instance_uids": [],
    }
    path = tmp_path / "truth.json"
    content = {"format": 1, "seed": 0, "study_uid": "1.2", "series_uid": "1.3", "lesions": [lesion]}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"truth\.json cannot be used as truth: lesions\.0\.center_lps_mm\.2"):
        evaluate_reports([path], [])


def test_the_truth_in_the_manual_can_be_used(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    path = tmp_path / "truth.json"
    path.write_text(manual.split("```json")[1].split("```")[0], encoding="utf-8")
    with pytest.raises(InputError, match="1 truths and 0 reports"):  # read, but its report is not there
        evaluate_reports([path], [])


def test_the_tables_show_the_figures_and_the_json_holds_them(evaluated: Callable[..., Evaluation]) -> None:
    evaluation = evaluated(answers_from_truth(STUDIES), counterfactuals=True)
    page = StringIO()
    print_evaluation(evaluation, Console(file=page, width=100), verbose=True)
    lines = [" ".join(line.split()) for line in page.getvalue().splitlines()]
    assert "4 studies, seed 1; scripted, fp32" in lines
    assert "effusions, nodules from 6 mm on 3 3 100.0 % 43.9 % to 100.0 %" in lines
    assert "normal studies without a finding 1 1 100.0 % 20.7 % to 100.0 %" in lines
    assert "mirrored 3 of 3 0 of 3 0 of 0 0 of 0 1.00" in lines
    assert any(line.startswith("blank: lesions missed none; false findings 1; reports/") for line in lines)
    stored = json.loads(json.dumps(asdict(evaluation)))
    assert stored["score"]["sensitivity"]["share"] == 1.0
