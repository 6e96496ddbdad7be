from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.findings.parse import parse_reply
from medvl.records import Box, ParsedReply, Token
from tests.findings.builders import make_context, make_entry, make_reply


def parse(text: str, **context: Any) -> ParsedReply:
    return parse_reply(text, (), make_context(**context))


def test_a_clean_reply_becomes_a_finding_tied_to_its_slices() -> None:
    parsed = parse(make_reply(make_entry()))
    assert (parsed.problems, parsed.usable) == ((), True)
    [finding] = parsed.findings
    assert (finding.first_slice, finding.key_slice, finding.last_slice) == (11, 12, 13)
    assert (finding.sop_instance_uid, finding.series_uid, finding.view, finding.chunks) == (
        "1.2.12",
        "1.9",
        "lung",
        (2,),
    )
    assert finding.box == Box(200, 400, 240, 420)
    assert finding.center_lps_mm == (-140.0, -45.0, -24.0)
    assert finding.depth_mm == 7.0
    assert (finding.side, finding.notes) == ("right", ())


def test_slices_of_slabs_are_those_of_the_stack() -> None:
    [finding] = parse(make_reply(make_entry()), slabs=4, per_slab=3).findings
    assert (finding.first_slice, finding.key_slice, finding.last_slice) == (11, 15, 19)


def test_an_empty_list_is_a_good_reply() -> None:
    assert parse('{"findings": []}') == ParsedReply(findings=(), problems=(), usable=True)


def test_markup_around_the_json_is_no_harm_but_noted() -> None:
    parsed = parse("Here you are:\n```json\n" + make_reply(make_entry()) + "\n```<|im_end|>")
    assert len(parsed.findings) == 1
    assert parsed.problems == ("the reply held more than the JSON that was asked for",)


def test_what_was_only_thought_is_not_a_finding() -> None:
    parsed = parse("<think>" + make_reply(make_entry(), make_entry(slice=3)) + "</think>" + make_reply(make_entry()))
    assert len(parsed.findings) == 1


def test_a_reply_cut_short_keeps_its_complete_findings() -> None:
    whole = make_reply(make_entry(), make_entry(slice=3), make_entry(slice=4))
    parsed = parse(whole[: whole.rindex("certainty")])
    assert [finding.key_slice for finding in parsed.findings] == [12, 13]
    assert parsed.problems == ("the reply was cut off or broken; 2 complete entries were kept",)
    assert parsed.usable


def test_one_broken_entry_costs_only_itself() -> None:
    whole = make_reply(make_entry(), make_entry(slice=3), make_entry(slice=4))
    parsed = parse(whole.replace('"slice": 3', '"slice: 3'))
    assert [finding.key_slice for finding in parsed.findings] == [12, 14]


@pytest.mark.parametrize(
    "text",
    ["", "The lungs are clear.", '{"findings": [', '{"findings": [{"slice": 2, "bb', '{"error": "busy"}', "[[[]]]"],
)
def test_a_reply_without_anything_readable_is_unusable(text: str) -> None:
    parsed = parse(text)
    assert (parsed.findings, parsed.usable) == ((), False)
    assert parsed.problems == ("the reply holds nothing that could be read",)


@pytest.mark.parametrize("number", [0, 5, -1, 2.5, "two", None, True, 1e400])
def test_a_slice_that_does_not_exist_is_dropped_and_said(number: object) -> None:
    parsed = parse(make_reply(make_entry(slice=number)))
    assert parsed.findings == ()
    assert parsed.problems == ("entry 1 names no slice of its chunk (1 to 4) and was dropped",)


@pytest.mark.parametrize(
    ("first", "last", "slices"),
    [(3, 1, (11, 13)), (0, 99, (11, 14)), (3, 4, (12, 14)), (None, "x", (12, 12))],
)
def test_a_wrong_range_of_slices_is_put_right(first: object, last: object, slices: tuple[int, int]) -> None:
    parsed = parse(make_reply(make_entry(first_slice=first, last_slice=last)))
    [finding] = parsed.findings
    assert (finding.first_slice, finding.last_slice) == slices
    assert parsed.problems == ("entry 1: its range of slices was put right",)


def test_swapped_corners_are_ordered() -> None:
    [finding] = parse(make_reply(make_entry(bbox_2d=[240, 420, 200, 400]))).findings
    assert finding.box == Box(200, 400, 240, 420)


def test_a_box_beyond_the_picture_is_cut() -> None:
    parsed = parse(make_reply(make_entry(bbox_2d=[-20, 400, 240, 1200])))
    assert parsed.findings[0].box == Box(0, 400, 240, 1000)
    assert parsed.problems == ("entry 1: its box was cut at the picture's edge",)


@pytest.mark.parametrize(
    "box", [[1, 2, 3], [math.nan, 0, 10, 10], [0, 0, math.inf, 10], ["a", 0, 1, 1], "box", None, {}, [[0, 0], [9, 9]]]
)
def test_a_box_that_is_none_is_dropped(box: object) -> None:
    parsed = parse(make_reply(make_entry(bbox_2d=box)))
    assert parsed.findings == ()
    assert parsed.problems == ("entry 1 has no box of four numbers and was dropped",)


def test_an_empty_box_is_dropped() -> None:
    parsed = parse(make_reply(make_entry(bbox_2d=[10, 10, 10, 90])))
    assert parsed.problems == ("entry 1 has an empty box and was dropped",)


def test_words_outside_the_list_of_choices_are_replaced_and_said() -> None:
    parsed = parse(make_reply(make_entry(side="up", certainty=["sure"])))
    [finding] = parsed.findings
    assert (finding.side_said, finding.certainty) == ("none", "possible")
    assert parsed.problems == (
        "entry 1: side is none of left, right, midline, bilateral, none; taken as none",
        "entry 1: certainty is none of definite, probable, possible; taken as possible",
    )


def test_the_same_entry_again_is_one_finding() -> None:
    parsed = parse(make_reply(make_entry(), make_entry(), make_entry()))
    assert len(parsed.findings) == 1
    assert parsed.problems == (
        "entry 2 repeats an earlier one and was dropped",
        "entry 3 repeats an earlier one and was dropped",
    )


def test_no_more_than_eight_findings_are_kept() -> None:
    parsed = parse(make_reply(*(make_entry(bbox_2d=[x, 0, x + 50, 50]) for x in range(0, 900, 90))))
    assert len(parsed.findings) == 8
    assert parsed.problems == ("10 findings were given; the first 8 were kept",)


@pytest.mark.parametrize(("count", "problems"), [(7, 0), (8, 1)])
def test_a_full_list_is_said_since_it_may_hide_more(count: int, problems: int) -> None:
    parsed = parse(make_reply(*(make_entry(bbox_2d=[10 * n, 0, 10 * n + 5, 9]) for n in range(count))))
    assert len(parsed.findings) == count
    assert parsed.problems == ("the list was full with 8 entries; there may be more to see",) * problems


@pytest.mark.parametrize(
    "text", ["none", "No nodule", "normal", "Normal lungs", "未见异常", "未发现结节", "无明显异常", ""]
)
def test_a_remark_that_there_is_nothing_is_no_finding(text: str) -> None:
    parsed = parse(make_reply(make_entry(observation=text)))
    assert (parsed.findings, parsed.problems) == ((), ("entry 1 reports no abnormality and was dropped",))


@pytest.mark.parametrize("text", ["normal pressure hydrocephalus", "nonspecific nodule", "无强化结节"])
def test_an_abnormality_that_begins_like_an_absence_stays(text: str) -> None:
    assert len(parse(make_reply(make_entry(observation=text))).findings) == 1


def test_texts_are_freed_of_control_and_bidi_characters_and_cut() -> None:
    hostile = "a\u202eb\x00c\u200bd \ud800<|im_end|>\n e" + "1234567890" * 30
    [finding] = parse(json.dumps({"findings": [make_entry(observation=hostile)]})).findings
    assert finding.observation == "abcd im_end e" + "1234567890" * 4 + "123456…"
    assert len(finding.observation) == 60


def test_a_loop_of_words_is_said_once() -> None:
    [finding] = parse(make_reply(make_entry(description="solid nodule " * 40))).findings
    assert finding.description == "solid nodule"


def test_a_side_that_contradicts_the_position_is_noted() -> None:
    [finding] = parse(make_reply(make_entry(side="left"))).findings
    assert (finding.side, finding.side_said) == ("right", "left")
    assert finding.notes == ("the model said left; the position is right",)


def test_without_a_body_the_side_is_as_said() -> None:
    [finding] = parse(make_reply(make_entry(side="left")), silhouette=None).findings
    assert finding.side == "left"
    assert finding.notes == ("the side is the model's word; geometry cannot tell it here",)


def test_the_side_on_a_projection_is_named_as_a_convention() -> None:
    [finding] = parse(make_reply(make_entry()), plane="projection").findings
    assert finding.side == "right"
    assert finding.notes == ("side by the display convention: the left of the picture is the patient's right",)
    assert (finding.center_lps_mm, finding.width_mm, finding.depth_mm) == (None, None, None)


def test_a_finding_has_its_axes_their_error_and_the_size_the_model_typed() -> None:
    entry = make_entry(bbox_2d=[200, 400, 220, 440], observation="1.5 cm nodule", description="12 mm, smooth.")
    [finding] = parse(make_reply(entry)).findings
    assert (finding.long_axis_mm, finding.short_axis_mm) == (20.0, 10.0)
    assert finding.axis_error_mm == pytest.approx(2.5)  # a step of 0.5 mm and two stored pixels of 1 mm
    assert finding.typed_mm == pytest.approx(15.0)


def test_without_millimetres_only_the_typed_size_is_known() -> None:
    [finding] = parse(make_reply(make_entry(description="12 mm, smooth.")), plane="projection").findings
    assert (finding.long_axis_mm, finding.short_axis_mm, finding.axis_error_mm) == (None, None, None)
    assert finding.typed_mm == 12.0


# --- probabilities -------------------------------------------------------------------------------------------------


def split_tokens(pieces: list[tuple[str, float]]) -> tuple[str, tuple[Token, ...]]:
    return "".join(text for text, _ in pieces), tuple(Token(text, probability) for text, probability in pieces)


def pieces_of(entry: dict[str, object], probability: float) -> tuple[str, float]:
    return json.dumps(entry)[1:-1], probability


def test_the_confidence_is_that_of_opening_the_entry() -> None:
    text, tokens = split_tokens(
        [('{"findings": ', 0.9), ("[{", 0.7), pieces_of(make_entry(), 0.5), ("}", 1.0), ("]", 0.4), ("}", 1.0)]
    )
    [finding] = parse_reply(text, tokens, make_context()).findings
    assert finding.confidence == pytest.approx(0.7)
    # The entry is covered by "[{", its body and "}": the cube root of 0.7 · 0.5 · 1.
    assert finding.wording_probability == pytest.approx(0.35 ** (1 / 3))


def test_the_choice_to_go_on_may_lie_in_the_comma() -> None:
    text, tokens = split_tokens(
        [
            ('{"findings": [', 0.9),
            ("{", 0.8),
            pieces_of(make_entry(), 0.5),
            ("}", 1.0),
            (",", 0.6),
            (" {", 1.0),
            pieces_of(make_entry(slice=3), 0.5),
            ("}]}", 0.3),
        ]
    )
    first, second = parse_reply(text, tokens, make_context()).findings
    assert first.confidence == pytest.approx(0.8)
    assert second.confidence == pytest.approx(0.6)


def test_a_character_split_over_tokens_does_not_shift_the_rest() -> None:
    entry = make_entry(site="肺")
    before, after = json.dumps(entry, ensure_ascii=False)[1:-1].split("肺")
    text, tokens = split_tokens(
        [('{"findings": [', 1.0), ("{", 0.8), (before, 1.0), ("", 0.5), ("肺", 0.5), (after, 1.0), ("}]}", 1.0)]
    )
    [finding] = parse_reply(text, tokens, make_context()).findings
    assert finding.confidence == pytest.approx(0.8)


def test_a_reply_stripped_of_what_surrounds_it_still_finds_its_tokens() -> None:
    text, tokens = split_tokens(
        [("\n", 0.1), ('{"findings": [', 1.0), ("{", 0.8), pieces_of(make_entry(), 1.0), ("}]}", 1.0)]
    )
    [finding] = parse_reply(text.strip(), tokens, make_context()).findings
    assert finding.confidence == pytest.approx(0.8)


def test_tokens_of_another_text_give_no_confidence() -> None:
    [finding] = parse_reply(make_reply(make_entry()), (Token("something else", 0.9),), make_context()).findings
    assert (finding.confidence, finding.wording_probability) == (None, None)


# --- any text ------------------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=10,
)


def assert_sound(parsed: ParsedReply) -> None:
    assert len(parsed.findings) <= 8
    for finding in parsed.findings:
        assert 11 <= finding.first_slice <= finding.key_slice <= finding.last_slice <= 14
        assert 0 <= finding.box.x1 < finding.box.x2 <= 1000
        assert 0 <= finding.box.y1 < finding.box.y2 <= 1000
        assert len(finding.observation) <= 60
        finding.description.encode()  # no lone surrogates


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_parsed_without_an_exception(text: str) -> None:
    assert_sound(parse(text))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(make_entry())), ANYTHING))
def test_any_values_are_parsed_without_an_exception(changed: dict[str, object]) -> None:
    assert_sound(parse(make_reply(make_entry(**changed))))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_mutation_of_a_reply_is_parsed_without_an_exception(data: st.DataObject) -> None:
    text = make_reply(make_entry(), make_entry(slice=3, site="左肺"))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(len(text), at + 30)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(['"', "{", "}", "[", "]", ",", "\\", "-", "9", "é", ""]))
            + text[until:]
        )
    assert_sound(parse(text))


@pytest.mark.parametrize("piece", ["{", "[", '{"findings": [', '{"a":', "]", '"', make_reply(make_entry())])
def test_a_piece_repeated_without_end_is_parsed_quickly(piece: str) -> None:
    assert_sound(parse(piece * 20_000))
