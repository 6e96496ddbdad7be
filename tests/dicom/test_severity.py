from __future__ import annotations

import pytest

from medvl.dicom.severity import cautions, reason_for, severity
from medvl.records import Note


@pytest.mark.parametrize("code", ["overlap", "tilt", "reformat", "non_square_pixels", "rescale_varies"])
def test_what_is_ordinary_or_undone_without_loss_is_information(code):
    assert severity(code) == "information"


@pytest.mark.parametrize("code", ["gap", "apart", "no_position", "zero_slope", "truncated", "duplicate_position"])
def test_what_a_report_may_be_wrong_or_silent_about_is_a_caution(code):
    assert severity(code) == "caution"


def test_a_code_that_nobody_judged_is_a_caution_without_a_reason():
    assert severity("unheard_of") == "caution"
    with pytest.raises(KeyError, match="unheard_of"):
        reason_for("unheard_of")


def test_only_cautions_are_left_of_a_stack_s_notes():
    overlap, gap = Note("overlap"), Note("gap")
    assert cautions((overlap, gap)) == (gap,)
