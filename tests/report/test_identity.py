from dataclasses import replace

import pytest

from medvl.records import Patient
from medvl.report.document import UnreadFile
from medvl.report.html import write_index, write_patient_page
from medvl.report.identity import deidentified
from medvl.report.schema import document_json
from medvl.report.write import write_study
from tests.report.examples import a_chinese_report, a_report, pictures

SECRETS = (
    "Smithson",
    "Zelda",
    "MRN-4711",
    "19800302",
    "1980-03-02",
    "ACC-0815",
    "20261122",
    "2026-11-22",
    "10:15",
    "101500",
)


def a_leaky_report():
    """Identity in every free text a scanner, a file system or a model could put it in."""
    report = a_report()
    return replace(
        report,
        patient=replace(report.patient, name="Smithson^Zelda"),
        study=replace(report.study, description="CT for SMITHSON, 2026-11-22"),
        warnings=("mrn-4711 seen twice",),
        findings=(
            replace(report.findings[0], description="Burned-in text: SMITHSON^ZELDA 19800302"),
            *report.findings[1:],
        ),
        unread_files=(UnreadFile("Smithson_Zelda/ACC-0815.pdf", "not an image of Zelda", "", 1),),
    )


def test_a_deidentified_report_holds_no_name_id_or_exact_date():
    text = document_json(deidentified(a_leaky_report())).decode().lower()
    assert [secret for secret in SECRETS if secret.lower() in text] == []


def test_what_does_not_identify_stays():
    report = deidentified(a_leaky_report())
    assert report.study.date == "2026"
    assert report.patient == Patient(sex="F", key="p7f3a9c2")
    assert report.study.description == "CT for [removed], [removed]"
    assert report.unread_files[0].file == "[removed]_[removed]/[removed].pdf"
    assert report.findings[0].sop_instance_uid == a_report().findings[0].sop_instance_uid
    assert report.series == a_report().series


def test_whole_words_only_are_removed():
    report = a_report(warnings=("Does the jane-like word janet stay? JANE goes.",))
    assert deidentified(report).warnings == ("Does the [removed]-like word janet stay? [removed] goes.",)


def test_chinese_names_are_found_inside_a_sentence():
    report = replace(a_chinese_report(), warnings=("患者王小东右肺结节", "小东的检查"))
    assert deidentified(report).warnings == ("患者[removed]右肺结节", "[removed]的检查")


def test_a_patient_called_like_a_choice_does_not_break_the_report():
    report = a_report()
    report = replace(report, patient=replace(report.patient, name="Right^Axial"))
    assert deidentified(report).findings[0].side == "right"
    assert deidentified(report).series[0].plane == "axial"


@pytest.mark.parametrize("stored_stripped", [True, False])
def test_deidentified_pages_hold_no_identity(tmp_path, stored_stripped):
    report = a_leaky_report()
    write_study(tmp_path / "p" / "s", deidentified(report) if stored_stripped else report, pictures(report))
    pages = [write_patient_page(tmp_path / "p", deidentify=True), write_index(tmp_path, deidentify=True)]
    for page in pages:
        text = page.read_text("utf-8").lower()
        assert [secret for secret in SECRETS if secret.lower() in text] == []
        assert "patient p7f3a9c2" in text
