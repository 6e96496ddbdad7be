from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medvl.cli import app
from medvl.evaluate.harness import Evaluation, Wish
from medvl.evaluate.score import score_cases
from medvl.evaluate.write import write_truth
from medvl.records import Patient
from medvl.report.schema import document_json
from medvl.settings import Settings
from tests.evaluate.builders import lesion, truth
from tests.report.examples import a_finding, a_report

EMPTY = Evaluation("0", None, 5, score_cases([]), (), ())


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Wish, Settings]]:
    """What the command asks of the harness; nothing is read."""
    calls: list[tuple[Wish, Settings]] = []

    def note(wish: Wish, settings: Settings, *_: object, **__: object) -> Evaluation:
        calls.append((wish, settings))
        return replace(EMPTY, exit_status=4 if wish.seed == 4 else 0)

    monkeypatch.setattr("medvl.cli.scoring.evaluate_phantoms", note)
    return calls


def test_flags_reach_the_harness_and_the_result_is_kept(tmp_path: Path, asked: list[tuple[Wish, Settings]]) -> None:
    flags = ("--model", "demo", "--decode", "stock", "--cases", 3, "--seed", 5, "--no-counterfactuals", "--json")
    result = run(*flags, "-o", tmp_path / "out")
    assert result.exit_code == 0
    ((wish, settings),) = asked
    assert wish == Wish(case_count=3, seed=5, counterfactuals=False, jobs=1)
    assert (settings.model, settings.decode, settings.output) == ("demo", "stock", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == json.loads(result.stdout)


def test_without_an_output_folder_nothing_stays(asked: list[tuple[Wish, Settings]]) -> None:
    assert run("--quiet").exit_code == 0
    assert not asked[0][1].output.exists()


def test_a_study_read_in_part_ends_with_status_4(asked: list[tuple[Wish, Settings]]) -> None:
    assert run("--seed", 4).exit_code == 4


def test_a_report_is_scored_against_a_truth(tmp_path: Path) -> None:
    place = (-61.5, 12.0, -118.0)
    report = a_report(findings=(a_finding(center_lps_mm=place),), key_images=(), patient=Patient(name="Doe^Jane"))
    (tmp_path / "report.json").write_bytes(document_json(report))
    known = replace(truth(lesion(center_lps_mm=place)), study_uid=report.study.uid)
    write_truth(known, tmp_path / "truth.json")
    result = run("--truth", tmp_path / "truth.json", tmp_path / "report.json", "--json")
    assert json.loads(result.stdout)["score"]["sensitivity"]["hits"] == 1
    assert "Doe" not in result.output


def test_a_truth_without_a_report_is_refused(tmp_path: Path) -> None:
    write_truth(truth(lesion()), tmp_path / "truth.json")
    result = run("--truth", tmp_path / "truth.json")
    assert result.exit_code == 3
    assert "1 truths and 0 reports do not make pairs" in result.output
