"""The command: what it finds, what it refuses, what it writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medvl.cli import app
from medvl.errors import InputError, OutputError
from medvl.export import printed
from medvl.export.deliver import FORMATS, Order, export_report, find_report
from medvl.report.review import REVIEW_FILE, Judgement, apply_review
from medvl.report.write import write_study
from tests.export.builders import a_block, exported
from tests.report.examples import a_hostile_report, a_report, pictures

BROWSER = next(filter(None, map(shutil.which, printed.BROWSERS)), None)
EXAMPLE = Path(__file__).parents[2] / "reports" / "example"


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture
def case(tmp_path):
    return exported(tmp_path / "dicom", a_block(1), a_block(2))


@pytest.fixture
def report(case, tmp_path):
    folder = tmp_path / "reports" / "patient" / "study"
    write_study(folder, case.document, pictures(case.document))
    return folder


def reviewed_as(folder, statuses):
    findings = {str(number): {"status": status} for number, status in enumerate(statuses, start=1)}
    uid = json.loads((folder / "report.json").read_text())["study"]["uid"]
    content = {"format": 1, "study_uid": uid, "reader": "Eva", "findings": findings}
    (folder / REVIEW_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize("above", ["report.json", ".", "..", "../.."])
def test_a_report_is_found_from_any_folder_above_it(report, above):
    assert find_report((report / above).resolve()) == report / "report.json"


def test_a_folder_of_several_reports_asks_which(report):
    write_study(report.parent / "other", a_report(), {})
    with pytest.raises(InputError, match=r"patient holds 2 reports \(other, study\)"):
        find_report(report.parent)


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no report\.json"):
        find_report(tmp_path)


def test_each_format_is_written_beside_the_report(case, report):
    formats = [flag for each in ("dicom-sr", "key-images", "fhir", "csv") for flag in ("--format", each)]
    outcome = run(report, *formats, "--source", case.folder, "--json")
    assert outcome.exit_code == 0, outcome.output
    written = {
        "dicom-sr": ["findings-sr.dcm"],
        "key-images": ["key-images/finding-1.dcm", "key-images/finding-2.dcm"],
        "fhir": ["findings-fhir.json"],
        "csv": ["findings.csv"],
    }
    folder = report / "export"
    assert json.loads(outcome.stdout) == {
        form: [str(folder / name) for name in names] for form, names in written.items()
    }
    assert all((folder / name).stat().st_mode & 0o777 == 0o600 for names in written.values() for name in names)


def test_a_review_beside_the_report_is_taken_in(report, tmp_path):
    reviewed_as(report, ["accepted", "rejected"])
    (path,) = export_report(Order(report, output=tmp_path / "out"), "csv")
    assert [line.split(",")[1] for line in path.read_text("utf-8-sig").splitlines()[1:]] == ["accepted", "rejected"]


def test_a_review_elsewhere_is_named(report, tmp_path):
    reviewed_as(report, ["accepted", "rejected"])
    elsewhere = (report / REVIEW_FILE).rename(tmp_path / "downloaded.json")
    assert run(report, "-f", "csv", "--review", elsewhere, "-o", tmp_path).exit_code == 0
    assert "rejected" in (tmp_path / "findings.csv").read_text("utf-8-sig")


def test_the_key_image_of_a_finding_that_was_rejected_since_goes(case, report, tmp_path):
    order = Order(report, source=case.folder, output=tmp_path / "out")
    export_report(order, "key-images")
    reviewed_as(report, ["accepted", "rejected"])
    export_report(order, "key-images")
    assert [path.name for path in (tmp_path / "out" / "key-images").iterdir()] == ["finding-1.dcm"]


@pytest.mark.parametrize("form", ["dicom-sr", "key-images"])
def test_dicom_asks_for_the_study_it_was_made_from(report, form):
    outcome = run(report, "--format", form)
    assert outcome.exit_code == 2
    assert "Name its folder with --source" in outcome.stderr


def test_a_format_that_does_not_exist_is_a_mistake_in_the_flags(report):
    outcome = run(report, "--format", "docx")
    assert outcome.exit_code == 2 and 'format "docx" is unknown' in outcome.stderr


def test_a_damaged_report_is_told_as_such(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    outcome = run(tmp_path, "--format", "csv")
    assert outcome.exit_code == 3 and "cannot be used" in outcome.stderr


@pytest.mark.parametrize(("form", "library"), [("fhir", "fhir"), ("dicom-sr", "highdicom")])
def test_a_library_that_is_not_installed_is_named_with_the_command_for_it(case, report, form, library):
    code = f"""
import sys
sys.modules[{library!r}] = None
from medvl.cli import app
app(["export", {str(report)!r}, "--format", {form!r}, "--source", {str(case.folder)!r}])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert 'Run pip install "medvl[export]"' in ended.stderr


def test_every_format_is_offered_by_the_command():
    help_text = run("--help").stdout
    assert all(form in help_text for form in FORMATS)


def test_the_committed_example_can_be_exported(tmp_path):
    study = Path(__file__).parents[2] / "sample_data" / "chest_ct"
    assert run(EXAMPLE, "-f", "dicom-sr", "-f", "fhir", "--source", study, "-o", tmp_path).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"findings-sr.dcm", "findings-fhir.json"}


# --- PDF ---------------------------------------------------------------------------------------------------------


def test_without_a_browser_it_says_what_to_install(report, monkeypatch):
    monkeypatch.setattr(printed, "BROWSERS", ("no-such-browser",))
    with pytest.raises(InputError, match="No Chromium, Chrome or Edge was found"):
        export_report(Order(report), "pdf")


def test_a_browser_that_prints_nothing_is_told_as_such(report, monkeypatch):
    monkeypatch.setattr(printed, "BROWSERS", ("false",))
    with pytest.raises(OutputError, match="false printed nothing: it gave no reason"):
        export_report(Order(report), "pdf")
    assert list((report / "export").iterdir()) == []


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium, Chrome or Edge")
@pytest.mark.parametrize("document", [a_report(), a_hostile_report()], ids=["usual", "hostile"])
def test_the_page_is_printed(tmp_path, document):
    folder = tmp_path / "study"
    write_study(folder, document, pictures(document))
    content = printed.printed_page(apply_review(document, None), folder, tmp_path / "out")
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert b"/JavaScript" not in content and b"/JS " not in content
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(BROWSER is None or not shutil.which("pdftotext"), reason="needs a Chromium and pdftotext")
def test_the_printed_page_has_the_readers_words_and_not_what_was_rejected(report, case, tmp_path):
    findings = {1: Judgement("edited", "calcified granuloma", "unchanged"), 2: Judgement("rejected")}
    from medvl.report.review import Review

    reviewed = apply_review(case.document, Review(1, case.document.study.uid, "Eva Muster", findings))
    path = tmp_path / "report.pdf"
    path.write_bytes(printed.printed_page(reviewed, report, tmp_path / "out"))
    text = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    assert "calcified granuloma" in text and "note of Eva Muster: unchanged" in " ".join(text.split())
    assert "solid nodule" not in text
