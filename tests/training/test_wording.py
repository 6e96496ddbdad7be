from __future__ import annotations

import json

import numpy as np
import pytest

from medvl.evaluate.phantoms import NODULE_KINDS
from medvl.findings.impression import parse_impression
from medvl.findings.schema import impression_schema, look_schema, reply_schema
from medvl.settings import Language
from training.cases import Sight, draw_case
from training.chunks import Chunk, Look, Scan, draw_chunk, draw_look
from training.wording import (
    DECISIVE,
    Segments,
    ask_impression,
    ask_look,
    ask_reading,
    certainty_of,
    conclude,
    make_up_findings,
    write_findings,
)

llguidance = pytest.importorskip("llguidance")

SCAN = Scan(np.zeros(8), 0.8, (0.0, 0.0), 1.0, 3.0, 10.0, 0.1, circle=False, table_side=1.0, side_px=500)


def text_of(reply: Segments) -> str:
    return "".join(part for part, _ in reply)


def is_allowed(schema: str, reply: str) -> bool:
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_json_schema(schema))
    tokens = tokenizer.tokenize_str(reply)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def chunk_of(*sights: Sight) -> Chunk:
    return Chunk(0, "ordinary", SCAN, sights, 3.0, None, 0.0)


LATER = Sight("solid nodule", "left", 4, 3, 5, (40.0, 0.0, 52.0, 12.0), 12.0)
EARLIER = Sight("ground-glass nodule", "right", 1, 1, 2, (-46.0, 20.0, -40.0, 26.0), 6.0)


def test_a_reply_lists_findings_by_picture_with_their_boxes() -> None:
    # The picture is 400 mm wide: −46 mm is 500 − 46 / 0.4 = 385 thousandths.
    first, second = json.loads(text_of(write_findings(chunk_of(LATER, EARLIER), "en")))["findings"]
    assert first == {
        "slice": 2,
        "bbox_2d": [385, 550, 400, 565],
        "first_slice": 2,
        "last_slice": 3,
        "observation": "ground-glass nodule",
        "site": "right lung",
        "side": "right",
        "certainty": "probable",
        "description": "Round, hazy opacity with a soft margin.",
    }
    assert (second["slice"], second["bbox_2d"], second["certainty"]) == (5, [600, 500, 630, 530], "definite")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("sights", [(), (LATER,), (EARLIER, LATER)])
def test_every_reply_is_allowed_by_the_schema(language: Language, sights: tuple[Sight, ...]) -> None:
    assert is_allowed(reply_schema(8), text_of(write_findings(chunk_of(*sights), language)))


@pytest.mark.parametrize(("sights", "decisive"), [((), "]"), ((LATER,), "{]"), ((EARLIER, LATER), "{,]")])
def test_what_says_that_a_list_goes_on_or_ends_is_decisive(sights: tuple[Sight, ...], decisive: str) -> None:
    reply = write_findings(chunk_of(*sights), "en")
    assert "".join(part for part, weight in reply if weight == DECISIVE) == decisive


def test_certainty_follows_size() -> None:
    assert [certainty_of(mm) for mm in (4.0, 6.0, 9.0)] == ["possible", "probable", "definite"]


def test_questions_come_in_the_shipped_words_and_in_others() -> None:
    case, rng = draw_case(3, enriched=True), np.random.default_rng(0)
    questions = [ask_reading(rng, draw_chunk(rng, [case], 8, 0.5)) for _ in range(120)]
    shipped = [question for question in questions if "An empty list is a correct answer" in question.text.instruction]
    assert 50 <= len(shipped) < 110
    assert all(len(question.text.labels) in range(1, 9) for question in questions)
    assert any("第 1 层" in question.text.labels[0] for question in questions)


def test_a_second_look_is_answered_with_yes_or_no() -> None:
    case, rng = draw_case(3, enriched=True), np.random.default_rng(0)
    for _ in range(20):
        look: Look = draw_look(rng, [case], 0)
        reply = text_of(ask_look(rng, look).reply)
        assert is_allowed(look_schema(), reply)
        assert json.loads(reply)["answer"] == ("yes" if look.present else "no")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_impression_stands_as_it_is_and_cites_every_finding_once(language: Language) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        findings = make_up_findings(rng, language)
        sentences = conclude(findings, language)
        reply = json.dumps({"impression": sentences}, ensure_ascii=False)
        kept = parse_impression(reply, findings)
        assert kept is not None
        assert [sentence.text for sentence in kept] == [sentence["text"] for sentence in sentences]
        assert sorted(number for sentence in kept for number in sentence.findings) == list(range(1, len(findings) + 1))
        assert is_allowed(impression_schema(len(findings)), reply)


def test_an_impression_is_asked_for_with_the_list_of_findings() -> None:
    question = ask_impression(np.random.default_rng(1))
    reply = json.loads(text_of(question.reply))
    count = max(number for sentence in reply["impression"] for number in sentence["findings"])
    assert f"\n{count}. " in question.text.instruction and f"\n{count + 1}. " not in question.text.instruction


def test_every_kind_of_nodule_has_a_name_in_both_languages() -> None:
    for kind in (*NODULE_KINDS, "pleural effusion"):
        sight = Sight(kind, "left", 0, 0, 0, (0.0, 0.0, 9.0, 9.0), 9.0)
        names = {
            json.loads(text_of(write_findings(chunk_of(sight), language)))["findings"][0]["observation"]
            for language in ("en", "zh")
        }
        assert len(names) == 2
