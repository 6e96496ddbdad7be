import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from medvl.errors import InputError
from medvl.report.review import (
    MAX_BYTES,
    NAME_CHARACTERS,
    NOTE_CHARACTERS,
    Judgement,
    Review,
    apply_review,
    read_review,
    report_digest,
)
from tests.report.examples import CHEST, HOSTILE, a_partial_report, a_report, a_report_without_findings

STUDY = f"{CHEST}.0"


def review_of(*statuses, reader="Eva Muster", **others):
    findings = {number: Judgement(status, "Fold") for number, status in enumerate(statuses, start=1) if status}
    return Review(1, STUDY, reader, findings, **others)


def written(tmp_path, **changes):
    content = {"format": 1, "study_uid": STUDY, "reader": "Eva", "findings": {}} | changes
    path = tmp_path / "review.json"
    path.write_text(json.dumps(content))
    return path


def test_a_review_as_the_page_saves_it_is_read(tmp_path):
    findings = {"2": {"status": "edited", "observation": "Empyema", "note": None}, "1": {"status": "accepted"}}
    review = read_review(written(tmp_path, findings=findings, saved="2026-11-23T09:30:00+01:00"))
    assert review.findings == {2: Judgement("edited", "Empyema"), 1: Judgement("accepted")}
    assert review.saved == datetime(2026, 11, 23, 8, 30, tzinfo=UTC)


def test_a_review_that_does_not_say_when_was_saved_when_its_file_was(tmp_path):
    path = written(tmp_path)
    assert read_review(path).saved == datetime.fromtimestamp(int(path.stat().st_mtime), UTC)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"findings": {"1": {"status": "maybe"}}}, r"findings\.1\.status"),
        ({"findings": {"one": {"status": "accepted"}}}, r"findings\.one"),
        ({"findings": {"1": {"status": "accepted", "colour": "red"}}}, r"findings\.1\.colour"),
        ({"surprise": True}, "surprise"),
        ({"reader": ["Eva"]}, "reader"),
        ({"reader": "x" * MAX_BYTES}, "longer than"),
    ],
)
def test_a_review_of_another_form_is_refused(tmp_path, changes, why):
    with pytest.raises(InputError, match=why):
        read_review(written(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1, "study_uid": NaN}'])
def test_a_damaged_review_is_refused(tmp_path, content):
    path = tmp_path / "review.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"review\.json cannot be used"):
        read_review(path)


def test_a_review_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_review(tmp_path / "none.json")


def test_without_a_review_nothing_is_judged_and_nothing_changes():
    reviewed = apply_review(a_report(), None)
    assert reviewed.document == a_report()
    assert [each.status for each in reviewed.findings] == ["", "", ""]
    assert not reviewed.verified


def test_a_rejected_finding_leaves_the_report_with_its_picture_and_sentences():
    reviewed = apply_review(a_report(), review_of("rejected"))
    assert [finding.number for finding in reviewed.document.findings] == [2, 3]
    assert [image.finding for image in reviewed.document.key_images] == [2, 3]
    # The first sentence spoke of finding 1 alone, the second of 2 and 3.
    assert [sentence.findings for sentence in reviewed.document.impression.sentences] == [(2, 3)]
    assert [each.status for each in reviewed.findings] == ["rejected", "", ""]


def test_an_edited_finding_has_the_readers_words_and_says_so():
    reviewed = apply_review(a_report(), review_of("", "edited"))
    edited = reviewed.document.findings[1]
    assert edited.observation == "Fold"
    assert edited.notes == ("seen in two chunks and joined", "in the words of Eva Muster")
    assert [sentence.findings for sentence in reviewed.document.impression.sentences] == [(1,)]


def test_an_accepted_finding_keeps_the_models_words():
    assert apply_review(a_report(), review_of("accepted")).document.findings[0].observation == "Solid nodule"


def test_the_impression_tells_what_was_judged():
    note = apply_review(a_report(), review_of("accepted", "rejected", reader="")).document.impression.note
    assert note.startswith("Reviewed by a reader who gave no name: 1 accepted, 0 edited, 1 rejected, 1 not judged.")


def test_a_report_is_verified_by_a_named_reader_who_judged_every_finding():
    assert apply_review(a_report(), review_of("accepted", "edited", "rejected")).verified


@pytest.mark.parametrize(
    ("report", "review"),
    [
        (a_report(), review_of("accepted", "edited", "rejected", reader=" \u200b ")),
        (a_report(), review_of("accepted", "", "rejected")),
        (a_partial_report(), review_of("accepted", "accepted", "accepted")),
    ],
    ids=["no name", "one not judged", "read in part"],
)
def test_a_report_is_not_verified_otherwise(report, review):
    assert not apply_review(report, review).verified


def test_a_named_reader_verifies_a_report_that_found_nothing():
    assert apply_review(a_report_without_findings(), review_of()).verified


def test_a_review_of_another_study_is_refused():
    with pytest.raises(InputError, match="of another study"):
        apply_review(a_report(), replace(review_of("accepted"), study_uid="1.2"))


def test_a_review_of_an_earlier_reading_is_refused():
    with pytest.raises(InputError, match="read again after the review"):
        apply_review(a_report(), review_of("accepted", report=report_digest(a_report(status="partial"))))


def test_a_review_that_names_its_report_is_taken():
    assert apply_review(a_report(), review_of("accepted", report=report_digest(a_report()))).findings[0].status


def test_a_judgement_of_no_finding_is_refused():
    with pytest.raises(InputError, match="judges finding 4"):
        apply_review(a_report(), review_of("accepted", "accepted", "accepted", "rejected"))


def test_an_edit_without_words_is_refused():
    with pytest.raises(InputError, match="edits finding 1 but does not say how"):
        apply_review(a_report(), Review(1, STUDY, "Eva", {1: Judgement("edited", " \u202e ")}))


def test_hostile_words_of_a_review_are_bounded_and_plain():
    judgement = Judgement("edited", HOSTILE, "N" * 100_000)
    reviewed = apply_review(a_report(), Review(1, STUDY, "R" * 100_000, {1: judgement}))
    finding = reviewed.findings[0]
    assert "\u202e" not in finding.finding.observation and "\x1b" not in finding.finding.observation
    assert (len(finding.note), len(reviewed.reader)) == (NOTE_CHARACTERS, NAME_CHARACTERS)


def test_what_was_judged_changes_the_digest():
    digests = {apply_review(a_report(), review).digest for review in (None, review_of(), review_of("accepted"))}
    assert len(digests) == 3


def test_a_chinese_report_tells_of_its_review_in_chinese():
    reviewed = apply_review(a_report(language="zh"), review_of("accepted"))
    assert reviewed.document.findings[0].notes == ("Eva Muster已接受",)
