import json
from dataclasses import replace
from pathlib import Path

import pytest

from medvl.errors import InputError
from medvl.report.schema import document_json, read_document, read_summary, report_schema
from tests.report.examples import a_hostile_report, a_partial_report, a_report

PUBLISHED = Path(__file__).parents[2] / "docs" / "report.schema.json"


def written(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_report_comes_back_as_it_was_written(tmp_path):
    assert read_document(written(tmp_path, document_json(a_report()))) == a_report()


def test_reports_are_canonical_and_name_their_schema():
    content = document_json(a_report())
    assert content == document_json(a_report())
    document = json.loads(content)
    assert list(document) == sorted(document)
    assert document["$schema"] == report_schema()["$id"] == "urn:medvl:report:1"


def test_the_published_schema_is_the_one_in_use():
    # Made by: python -m medvl.report.schema > docs/report.schema.json
    assert json.loads(PUBLISHED.read_text("utf-8")) == report_schema()


def test_every_property_written_is_in_the_schema_and_the_other_way_round():
    document, schema = json.loads(document_json(a_report())), report_schema()
    added = {"guidelines"}  # reports of before it lack it
    assert set(document) == set(schema["properties"]) == set(schema["required"]) | added
    assert set(document["findings"][0]) == set(schema["$defs"]["Finding"]["properties"])


def test_a_summary_holds_what_the_list_of_patients_shows(tmp_path):
    summary = read_summary(written(tmp_path, document_json(a_partial_report())))
    assert (summary.status, len(summary.findings), summary.patient.name) == ("partial", 3, "Doe^Jane")


def test_file_names_that_are_not_text_do_not_stop_a_report(tmp_path):
    report = read_document(written(tmp_path, document_json(a_hostile_report())))
    assert report.unread_files[0].file == "bad-?.dcm"


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        document_json(a_report(key_images=(replace(a_report().key_images[0], position_mm=float("nan")),)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "EOF while parsing"),
        (b"\xff\xfe", "expected value"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"format": 2}', "its format is 2 and this medvl reads format 1"),
        (b'{"format": 1}', "language: Field required"),
        (b'{"title": "another program"}', "format: Field required"),
    ],
)
def test_a_damaged_or_foreign_report_is_refused_with_the_reason(tmp_path, content, said):
    with pytest.raises(InputError, match=f"report.json cannot be used: .*{said}"):
        read_document(written(tmp_path, content))


def test_a_value_of_the_wrong_kind_is_named(tmp_path):
    document = json.loads(document_json(a_report()))
    document["findings"][1]["side"] = "upper"
    with pytest.raises(InputError, match=r"findings\.1\.side: Input should be 'left', 'right'"):
        read_document(written(tmp_path, json.dumps(document)))


def test_a_missing_report_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_document(tmp_path / "report.json")
