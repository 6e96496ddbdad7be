from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from medvl.dicom import gate
from medvl.records import Note
from medvl.report.notes import note_action, note_text, notes_table, report_note
from medvl.report.words import words_of

ENGLISH, CHINESE = words_of("en"), words_of("zh")


def codes_of_the_gate() -> set[str]:
    """Every code that the gate's source passes to `_note`, and those of series that are not worth reading."""
    calls = [node for node in ast.walk(ast.parse(Path(gate.__file__).read_text())) if isinstance(node, ast.Call)]
    named = [call.args[0] for call in calls if getattr(call.func, "id", "") == "_note"]
    texts = [part.value for node in named for part in ast.walk(node) if isinstance(part, ast.Constant)]
    mixed = {"mixed_orientation", "mixed_matrix", "mixed_spacing"}
    sources = [path.read_text() for path in Path(gate.__file__).parent.glob("*.py")]
    named = r'"(suv_\w+|zero_\w+|unrescaled|no_dicom_header|guessed_ct)"'
    flaws = {code for source in sources for code in re.findall(named, source)}
    return {text for text in texts if isinstance(text, str)} | mixed | gate.NOT_READABLE | flaws


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_code_of_the_gate_has_words_and_an_action_and_no_word_is_left_over(words):
    table = {key.split(".")[1] for key in words.table if key.startswith("note.")}
    assert table == codes_of_the_gate()
    assert {f"note.{code}.action" for code in table} <= set(words.table)


def test_the_documentation_lists_every_note():
    # Made by: python -c "from medvl.report.notes import notes_table; print(notes_table())"
    page = Path(__file__).parents[2] / "docs" / "gate.md"
    assert page.read_text("utf-8").endswith(f"\n\n{notes_table()}\n")


def test_a_note_is_worded_from_its_code_and_numbers_in_either_language():
    gap = Note("gap", (("slice", 3), ("mm", 2.5)))
    assert note_text(gap, ENGLISH) == "gap after slice 3: 2.5 mm missing"
    assert note_text(gap, CHINESE) == "第 3 层之后有间隙：缺 2.5 mm"
    assert note_action(gap, CHINESE) == "不跨间隙平均层面"


def test_one_and_several_are_told_apart():
    assert note_text(Note("few_slices", (("n", 1),)), ENGLISH) == "a single slice"
    assert note_text(Note("few_slices", (("n", 2.0),)), ENGLISH) == "only 2 slices"


def test_planes_and_regions_have_words_of_their_own():
    assert note_text(Note("reformat", (("plane", "coronal"),)), CHINESE) == "冠状面 CT，应由其他层面重组而来"
    assert "胸部" in note_text(Note("body_part", (("tag", "chest"), ("word", "head"))), CHINESE)


def test_a_report_keeps_code_values_and_the_english_sentence():
    note = report_note(Note("tilt", (("degrees", 12.0),)))
    assert (note.code, note.values) == ("tilt", {"degrees": 12.0})
    assert note.text == "gantry tilt of 12°: the slices are sheared"
    assert note.action == "shifts each slice in its plane, so that the stack is straight"
