from __future__ import annotations

import json

import pytest

from medvl.findings.schema import impression_schema, look_schema, reply_schema
from tests.findings.builders import make_entry, make_reply

llguidance = pytest.importorskip("llguidance")


def is_allowed(schema: str, reply: str) -> bool:
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_json_schema(schema))
    assert not matcher.get_error()
    tokens = tokenizer.tokenize_str(reply)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def test_the_empty_list_is_a_valid_reply() -> None:
    assert is_allowed(reply_schema(4), '{"findings": []}')


def test_a_reply_in_the_agreed_order_and_spacing_is_allowed() -> None:
    assert is_allowed(reply_schema(4), make_reply(make_entry(), make_entry(slice=4, site="左肺上叶")))


@pytest.mark.parametrize(
    "changed",
    [
        {"slice": 5},
        {"slice": 0},
        {"bbox_2d": [0, 0, 1001, 10]},
        {"bbox_2d": [0, 0, 10]},
        {"observation": "x" * 61},
        {"observation": ""},
        {"description": "x" * 201},
        {"side": "up"},
        {"certainty": "surely"},
        {"size": 3},
    ],
)
def test_nothing_out_of_bounds_is_allowed(changed: dict[str, object]) -> None:
    assert not is_allowed(reply_schema(4), make_reply(make_entry(**changed)))


def test_the_longest_strings_are_allowed() -> None:
    longest = make_entry(observation="x" * 60, site="y" * 60, description="z" * 200)
    assert is_allowed(reply_schema(4), make_reply(longest))


def test_no_more_than_eight_findings_are_allowed() -> None:
    assert is_allowed(reply_schema(4), make_reply(*[make_entry()] * 8))
    assert not is_allowed(reply_schema(4), make_reply(*[make_entry()] * 9))


def test_no_layout_but_the_agreed_one_is_allowed() -> None:
    assert not is_allowed(reply_schema(4), '{"findings":[]}')
    assert not is_allowed(reply_schema(4), json.dumps({"findings": []}, indent=1))


def test_keys_come_in_the_order_where_what_how_sure() -> None:
    item = json.loads(reply_schema(4))["properties"]["findings"]["items"]
    assert list(item["properties"]) == list(make_entry())
    assert item["required"] == list(make_entry())


def test_the_schema_is_compact_and_the_same_every_time() -> None:
    assert reply_schema(4) == reply_schema(4)
    assert ", " not in reply_schema(4).replace('", "', "").replace('": "', "")


def test_an_impression_cites_only_findings_that_exist() -> None:
    schema = impression_schema(3)
    assert is_allowed(schema, '{"impression": [{"text": "Two nodules.", "findings": [1, 3]}]}')
    assert not is_allowed(schema, '{"impression": [{"text": "Two nodules.", "findings": [4]}]}')
    assert not is_allowed(schema, '{"impression": [{"text": "Two nodules.", "findings": []}]}')
    assert not is_allowed(schema, '{"impression": []}')


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_closed_question_is_answered_with_yes_or_no(answer: str) -> None:
    assert is_allowed(look_schema(), json.dumps({"answer": answer}))


@pytest.mark.parametrize("reply", ['{"answer": "maybe"}', '"yes"', '{"answer": true}'])
def test_a_closed_question_has_no_third_answer(reply: str) -> None:
    assert not is_allowed(look_schema(), reply)
