from __future__ import annotations

import ast
import csv
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from string import Formatter

import pytest

import medvl
from medvl.dicom.geometry import stack_series
from medvl.dicom.select import select_series
from medvl.findings.merge import merge_findings
from medvl.records import Note, Study
from medvl.report.sentences import _sentences, _templates, recognise, reword, reword_document
from medvl.report.words import words_of
from tests.dicom.test_gate import axial
from tests.findings.builders import make_finding
from tests.report.examples import a_report

CHINESE, ENGLISH = words_of("zh"), words_of("en")
PACKAGE = Path(medvl.__file__).parent
EDGE_TABLE = Path(__file__).parents[1] / "dicom" / "edge_expectations.csv"
# Put together from parts in the code, rather than written there in one piece.
JOINED = {"of_stack", "between", "in_chunk", "entry_side", "entry_certainty", "view_of_series"}
JOINED |= {"prompt_contradicted", "prompt_silent_tag", "kind_of_series", "film", "titled_series", "stack_of_value"}


@cache
def sentences_of_the_code() -> frozenset[str]:
    """Every text in medvl's sources, with {} for what is put into it."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def reasons_of_the_decoders() -> set[str]:
    """What every DecodeError in medvl/dicom says was found, with 7 for what is put into it."""
    found = set()
    for path in (PACKAGE / "dicom").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DecodeError" and node.args:
                first = node.args[0]
                parts = first.values if isinstance(first, ast.JoinedStr) else [first]
                texts = [part.value if isinstance(part, ast.Constant) else "7" for part in parts]
                found.add("".join(map(str, texts)))
    return found


def bare(template: str) -> str:
    return "".join(literal + ("{}" if name is not None else "") for literal, name, _, _ in Formatter().parse(template))


def names(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


@pytest.mark.parametrize("code", sorted(set(_sentences()) - JOINED))
def test_every_sentence_of_the_table_is_one_that_the_code_writes(code):
    written = bare(_sentences()[code]["en"])
    assert any(written in sentence for sentence in sentences_of_the_code())


@pytest.mark.parametrize("code", sorted(_sentences()))
def test_every_sentence_is_the_same_in_chinese_with_the_same_values(code):
    english, chinese = _sentences()[code]["en"], _sentences()[code]["zh"]
    assert names(chinese) <= names(english)
    assert chinese != english


@pytest.mark.skipif(not EDGE_TABLE.exists(), reason="needs the table of odd files")
def test_every_reason_that_an_odd_file_gets_is_in_the_table():
    with EDGE_TABLE.open(newline="") as lines:
        reasons = {row[name] for row in csv.DictReader(lines) for name in ("listed", "listed_together")} - {""}
    assert [reason for reason in sorted(reasons) if recognise(reason) is None] == []


def test_every_reason_why_pixels_cannot_be_had_is_in_the_table():
    reasons = {
        reason.replace("damaged: 7", "damaged: zeros stand in place of data") for reason in reasons_of_the_decoders()
    }
    assert len(reasons) > 20
    assert [reason for reason in sorted(reasons - {"7"}) if recognise(reason) is None] == []


def test_every_reason_to_read_a_series_or_not_is_in_the_table():
    thick = replace(axial(0, 5, 10, 15), number=1, description="Lung, 5 mm", uid="1.1")
    frames = tuple(replace(frame, slice_thickness_mm=5.0, frame_of_reference_uid="1.3") for frame in thick.frames)
    thick = replace(thick, frames=frames)
    thin = replace(thick, uid="1.2", frames=tuple(replace(frame, slice_thickness_mm=1.0) for frame in frames))
    scout = replace(thick, uid="1.4", not_read_because="scout (localizer)")
    study = Study("1", "k", None, "", "", "", "", (thick, thin, scout))
    for wanted in (("auto",), ("all",), ("1.2",), ("1.4",)):
        for choice in select_series(study, wanted, lambda _: "any"):
            assert recognise(choice.reason), choice.reason
    assert reword(select_series(study, ("auto",), lambda _: "any")[0].reason, CHINESE) == (
        "与序列 1“Lung, 5 mm”为同一次采集，而后者层厚更接近 1–3 mm"
    )
    assert len(stack_series(thick)[0]) == 1


def test_every_note_of_the_merge_is_in_the_table():
    [finding] = merge_findings([make_finding(), make_finding(observation="mass", side="left", view="bone")])
    other, _ = merge_findings([make_finding(), make_finding(observation="rib fracture")])
    assert len(finding.notes) == 2
    assert all(recognise(note) for note in (*finding.notes, *other.notes))


@pytest.mark.parametrize(
    ("sentence", "chinese"),
    [
        ("same position as a/1.dcm", "与 a/1.dcm 位置相同"),
        ("the model said left; the position is bilateral", "模型称为左；实际位置为双侧"),
        ("also reported as “mass” on slice 12 (series 7, lung)", "在第 12 层（序列 7，lung）亦报告为“mass”"),
        ("also seen on slices 41–43 (stack 2 (venous), lung)", "亦见于第 41–43 层（stack 2 (venous), lung）"),
        (
            "--strict: gap after slice 4: 3 mm missing; a single slice",
            "--strict：第 4 层之后有间隙：缺 3 mm；仅有 1 层",
        ),
        ("--strict: a coronal CT, so reformatted from other slices", "--strict：冠状面 CT，应由其他层面重组而来"),
        ("echo 2 of 3 (TE 80 ms): axial MR series", "回波 2/3（TE 80 ms）：横断面 MR 序列"),
        ("asked for by its UID, though scout (localizer)", "已按 UID 指定，尽管是：定位像"),
        (
            "3 frames of series 2 at positions already taken: not read, and perhaps another phase",
            "序列 2 中有 3 帧位于已占用的位置：未读，可能是另一期相",
        ),
        (
            "chunk 3: entry 2: side is none of left, right; taken as none",
            "第 3 块：第 2 项的侧别不在 left, right 之中；按 none 处理",
        ),
        (
            "CT; the header names no region with a prompt of its own; body part X (0018,0015) names no region",
            "CT；文件头未指明有专用提示词的部位；检查部位 X (0018,0015) 未指明部位",
        ),
    ],
)
def test_a_sentence_is_said_in_chinese_with_its_values_and_what_is_nested_in_it(sentence, chinese):
    assert reword(sentence, CHINESE) == chinese
    assert reword(sentence, ENGLISH) == sentence


def test_a_sentence_tells_its_code_and_values():
    assert recognise("same position as a.dcm") == Note("same_position", (("file", "a.dcm"),))


@pytest.mark.parametrize("text", ["", "Unknown: thing", "A nodule.", "x" * 5000, "series 3", "{n}", "\n"])
def test_other_text_is_left_alone(text):
    assert reword(text, CHINESE) == {"series 3": "序列 3"}.get(text, text)


def test_a_hostile_sentence_takes_no_time_to_speak_of():
    hostile = "same acquisition as " + ", which " * 200
    assert reword(hostile, CHINESE) == hostile


def test_a_chinese_report_says_reasons_notes_and_warnings_in_chinese():
    document = a_report()
    warning = "1 slice of series 2 not read: --strict reads no stack with a caution"
    finding = replace(
        document.findings[0], notes=("reported once, on a single picture; its neighbours were read, too",)
    )
    series = replace(document.series[0], reason="axial CT series")
    document = replace(document, language="zh", warnings=(warning,), findings=(finding,), series=(series,))
    reworded = reword_document(document)
    assert reworded.warnings == ("序列 2 中有 1 层未读：--strict 不读带有“注意”提示的层叠",)
    assert reworded.findings[0].notes == ("仅在一幅图像上报告过一次；相邻图像也已阅读",)
    assert reworded.series[0].reason == "横断面 CT 序列"
    assert reword_document(replace(document, language="en")) == replace(document, language="en")


def test_no_two_templates_are_the_same_sentence():
    written = [re.sub(r"\(\?P<\w+>", "(", template.pattern.pattern) for template in _templates()]
    assert len(written) == len(set(written))
