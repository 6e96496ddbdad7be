"""Headers and replies that mean harm, and identity that must not leak."""

import json
import stat
import zipfile

import pytest

from tests.pipeline.bench import Notes, is_impression, report_bright, write_body
from tests.reader_fakes import ScriptedReader

NAME = "Zephyrine^Quodlibet"
PATIENT_ID = "QX-77/4711"
SECRETS = ("Zephyrine", "Quodlibet", "QX-77", "4711", "19551231", "ACC-90210")
IDENTITY = {
    "patient_name": NAME,
    "patient_id": PATIENT_ID,
    "extra": {"PatientBirthDate": "19551231", "AccessionNumber": "ACC-90210"},
}


def everything_under(folder):
    """Path and content of every file, and every path, as text."""
    for path in folder.rglob("*"):
        yield path.relative_to(folder).as_posix(), path.read_bytes().decode("latin-1") if path.is_file() else ""


def test_identity_is_on_the_page_and_in_the_report_only(bench):
    write_body(bench.input, **IDENTITY)
    notes = Notes()
    bench.run(ScriptedReader(report_bright), watcher=notes)
    assert "Quodlibet" in bench.report().patient.name
    for path, content in everything_under(bench.output):
        told = path if path.endswith(("index.html", "report.json")) else path + content
        assert not [secret for secret in SECRETS if secret in told], path
    assert not [secret for secret in SECRETS if secret in " ".join(notes.lines)]


def test_deidentified_nothing_of_the_identity_is_anywhere_under_the_output(bench):
    write_body(bench.input / NAME, study_description=f"CT {NAME} {PATIENT_ID}", description="for Quodlibet", **IDENTITY)
    bench.run(ScriptedReader(report_bright), deidentify=True)
    for path, content in everything_under(bench.output):
        assert not [secret for secret in SECRETS if secret in path + content], path
        assert "2024-01-31" not in content, path


def test_the_model_never_sees_a_name_an_id_or_a_date(bench):
    write_body(bench.input, study_description=f"CT {NAME}", **IDENTITY)
    reader = ScriptedReader(report_bright)
    bench.run(reader)
    told = " ".join(part for request in reader.requests for part in request.parts if isinstance(part, str))
    assert not [secret for secret in (*SECRETS, "20240131") if secret in told]


def test_folders_and_files_are_the_owner_s_alone(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [bench.output, *bench.output.rglob("*")]}
    assert modes == {(True, 0o700), (False, 0o600)}


HOSTILE = {
    "markup": "<script>alert(1)</script>^<img src=x onerror=alert(2)>",
    "right to left": "\u202egnik\u202c^Joe\u2066",
    "very long": "X" * 100_000,
    "not text": "caf\udce9",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.filterwarnings("ignore")  # pydicom's own, on writing such values
def test_a_hostile_header_stays_text_on_the_page(bench, name):
    safe = name.encode("utf-8", "ignore").decode()
    write_body(
        bench.input,
        count=3,
        patient_name=safe,
        description=safe[:5000],
        study_description=safe,
        body_part="CHEST",
        extra={"SpecificCharacterSet": "ISO_IR 192"},
    )
    bench.run(ScriptedReader())
    for path, page in bench.pages().items():
        assert "<script>alert" not in page, path
        assert "<img src=x" not in page, path
        assert not set("\u202e\u2066") & set(page), path
        assert len(page) < 300_000, path


# Texts of any script, and codes, dates and UIDs, which have no script but take any byte below 128.
SCRIPTS = ("AccessionNumber", "SeriesDescription", "ProtocolName", "Manufacturer", "ContrastBolusAgent")
CODES = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "BodyPartExamined", "ViewPosition", "ImageType"),
    *("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientOrientation"),
)


@pytest.mark.filterwarnings("ignore")  # pydicom's own, on writing such values
def test_no_text_of_a_header_and_no_name_of_a_file_reaches_the_page_as_markup(bench):
    hostile = "<script>alert\u202e\u2066\x1b[31m</script>"
    extra = dict.fromkeys(SCRIPTS, hostile) | dict.fromkeys(CODES, "<script>alert\x1b[31m</script>")
    extra |= {"SpecificCharacterSet": "ISO_IR 192"}
    (path,) = write_body(bench.root / "made", count=1, extra=extra)
    bench.input.mkdir()
    with zipfile.ZipFile(bench.input / "a.zip", "w") as archive:
        archive.write(path, f"../{hostile}/1")
        archive.writestr(f"../../{hostile}.txt", "no image")
    outcome = bench.run(ScriptedReader(report_bright), series=("all",))
    [(name, _)] = outcome.unread
    assert name == "a.zip/../../<script>alert[31m</script>.txt"
    for page_path, page in bench.pages().items():
        assert "<script>alert" not in page, page_path
        assert not set("\u202e\u2066\x1b") & set(page), page_path
    assert {path.name for path in bench.root.iterdir()} == {"made", "input", "reports", "checkpoint"}


@pytest.mark.parametrize("hostile", ["../../../etc/cron.d/x", "/etc/x", "a" * 5000, "..", ".\x00."])
@pytest.mark.filterwarnings("ignore")
def test_no_uid_or_patient_id_becomes_a_path(bench, hostile):
    study = {
        "StudyInstanceUID": hostile,
        "SeriesInstanceUID": hostile,
        "PatientID": hostile,
        "BodyPartExamined": hostile,
    }
    write_body(bench.input, count=3, extra=study)
    bench.run(ScriptedReader())
    [page] = bench.output.glob("*/index.html")
    assert len(page.parent.name) == 12
    assert {path.name for path in bench.root.iterdir()} == {"input", "reports", "checkpoint"}
    assert all(len(path.name) < 90 for path in bench.output.rglob("*"))


MARKUP = '<|im_end|><script>alert(1)</script><img src=x onerror=alert(2)>"\u202e'


def hostile_finding(words: str) -> str:
    finding = {
        "slice": 1,
        "bbox_2d": [100, 100, 300, 300],
        "first_slice": 1,
        "last_slice": 1,
        "observation": words,
        "site": words,
        "side": "left",
        "certainty": "possible",
        "description": words,
    }
    return json.dumps({"findings": [finding]})


def test_markup_in_a_reply_stays_text_in_page_and_report(bench):
    write_body(bench.input, count=3)
    bench.run(ScriptedReader(lambda request: hostile_finding(MARKUP)))
    [finding] = bench.report().findings
    assert "<|" not in finding.observation
    assert "\u202e" not in finding.description
    for path, page in bench.pages().items():
        assert "<script>alert" not in page, path
        assert "<img src=x" not in page, path


def test_a_thousand_findings_become_eight_and_the_report_says_so(bench):
    write_body(bench.input, count=3)
    one = json.loads(hostile_finding("nodule"))["findings"][0]
    many = [one | {"bbox_2d": [x, y, x + 9, y + 9]} for x in range(0, 960, 30) for y in range(0, 960, 30)]
    replies = ScriptedReader(lambda request: json.dumps({"findings": many[:1000]}))
    bench.run(replies, max_new_tokens=8192 * 40)  # one character, one token
    assert len(bench.report().findings) <= 8
    assert any("the first 8 were kept" in problem for problem in bench.report().series[0].views[0].problems)


@pytest.mark.parametrize(
    "reply",
    ['{"findings": [{"slice": 1, "bbox_2d": [1, 2', "[" * 5000, "{}", "", "NaN", '{"findings": "none"}', "\x00\ud800"],
    ids=["cut", "nested", "empty object", "empty", "NaN", "no list", "no text"],
)
def test_a_broken_reply_ends_no_run_and_invents_nothing(bench, reply):
    write_body(bench.input, count=3)
    outcome = bench.run(ScriptedReader(lambda request: reply))
    assert bench.report().findings == ()
    assert outcome.studies[0].page.exists()


def test_an_impression_cannot_bring_in_findings_or_markup(bench):
    def reply(request):
        if is_impression(request):
            sentences = [
                {"text": f"All is well {MARKUP}", "findings": [1]},
                {"text": "A second mass is seen.", "findings": [2]},
            ]
            return json.dumps({"impression": sentences})
        return report_bright(request)

    write_body(bench.input)
    bench.run(ScriptedReader(reply))
    sentences = bench.report().impression.sentences
    assert [sentence.findings for sentence in sentences] == [(1,)]
    assert "<|" not in sentences[0].text
