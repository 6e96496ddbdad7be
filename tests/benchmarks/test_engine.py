from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.engine.__main__ import main
from benchmarks.engine.compare import ROWS, compare
from benchmarks.engine.limits import (
    Limit,
    Rates,
    compute_limit,
    linear_bytes,
    prefill_operations,
    step_bytes,
    vision_operations,
)
from benchmarks.engine.machine import Machine
from benchmarks.engine.models import SHAPES
from benchmarks.engine.table import Goal, Report, Row, render_markdown
from benchmarks.engine.work import FULL, QUICK, Requests, make_tokenizer
from medvl.planning.memory import GIB, Load, predict_memory
from medvl.reader.chat import ChatForm
from medvl.reader.grammar import Grammars

EIGHT = SHAPES["8b"]
RATES = Rates(bytes_per_s=4e12, operations_per_s=8e14, prefill_operations_per_s=7e14)


def report(*rows: Row, shape: str = "8b") -> Report:
    limits = {"int8": Limit(vision_s=1.0, prefill_s=2.0, step_s=0.005, lone_step_s=0.002)}
    return Report({"card": "a card"}, shape, FULL, 2800, RATES, limits, rows)


OURS = Row("ours-int8", "int8", vision_s=1.5, prefill_s=2.5, step_s=0.006, lone_step_s=0.004, total_s=6.0)


def test_the_table_of_a_quick_run_on_a_cpu_is_complete(tmp_path: Path) -> None:
    main(["--shape", "tiny", "--quick", "--rows", "naive-int8,stock-bf16,ours-bf16,ours-int8", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "engine.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["naive-int8", "stock-bf16", "ours-bf16", "ours-int8"]
    assert [row["failure"] for row in written["rows"]] == ["", "", "", ""]
    for row in written["rows"][1:]:
        assert all(row[part] is not None for part in ("vision_s", "prefill_s", "step_s", "lone_step_s", "total_s"))
        assert set(written["ratios"][row["name"]]) == {"vision_s", "prefill_s", "step_s", "lone_step_s", "total_s"}
    assert (tmp_path / "engine.md").read_text().count("| ours-") == 2


def test_a_row_that_fails_says_so_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Row:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(ROWS, "ours-bf16", ("bf16", fail))  # type: ignore[arg-type]
    last = list(compare("tiny", ["ours-bf16", "stock-bf16"], QUICK, Machine(), lambda _: None))[-1]
    assert [row.failure for row in last.rows] == ["", "RuntimeError: no such kernel"]
    assert "| ours-bf16 | – | – | – | – | – | – | failed: RuntimeError: no such kernel |" in render_markdown(last)


def test_ratios_are_the_measured_figures_over_the_limits() -> None:
    # The limit of it all: 1 + 2 + 255 × 0.005 = 4.275 s, since the first of 256 tokens comes from prefill.
    ratios = report(OURS).ratios(OURS)
    assert ratios == pytest.approx(
        {"vision_s": 1.5, "prefill_s": 1.25, "step_s": 1.2, "lone_step_s": 2.0, "total_s": 6.0 / 4.275}
    )


def test_goals_say_what_is_met_and_by_how_much_the_rest_is_missed() -> None:
    verdicts = [goal.verdict for goal in report(OURS).goals()]
    # 6 of 7 s; 1.4 of 2 ×; 6 of 9 ms; 4 of 4 ms; 2 of 1.43 ×; 4 of 3.3 s.
    assert verdicts == ["met", "met", "met", "met", "missed by 40%", "missed by 21%"]


def test_memory_predicted_too_low_is_missed_however_little_it_is() -> None:
    assert Goal("peak", 5.0, 3.0, "%").verdict == "met"
    assert Goal("peak", 5.0, -0.5, "%").verdict == "missed: -0.5 %, which must not be under 0"


def test_goals_are_those_of_the_8b_shape_at_full_size() -> None:
    assert report(OURS, shape="4b").goals() == []


def test_the_8b_step_reads_the_bytes_counted_by_hand() -> None:
    # A layer: 4096 × (6144 + 4096) + 3 × 4096 × 12288 weights in 6144 + 4096 + 24576 + 4096 rows; 36 layers.
    layers, rows = 36 * (41_943_040 + 150_994_944), 36 * 38_912
    assert linear_bytes(EIGHT, "int8") == layers + 4 * rows
    assert linear_bytes(EIGHT, "bf16") == 2 * layers
    assert linear_bytes(EIGHT, "nf4") == layers * 0.5625
    # 144 KiB of keys and values a token, and the output matrix in two bytes a weight.
    assert step_bytes(EIGHT, "bf16", 30, 2800) == 2 * layers + 2 * 151_936 * 4096 + 30 * 2800 * 147_456


def test_operations_are_twice_the_multiplications() -> None:
    # One patch row of 1536 numbers into 1152, 27 blocks over 1024 patches, four mergers of 4608 over 256 tokens.
    block = 4 * 1152**2 + 2 * 1152 * 4304 + 2 * 1024 * 1152
    vision = 1024 * (1536 * 1152 + 27 * block) + 256 * 4 * 4608 * (4608 + 4096)
    assert vision_operations(EIGHT, 512) == 2 * vision
    layers, attention = 36 * 192_937_984, 36 * 4096 * 100  # on average a token attends to half of the 100
    assert prefill_operations(EIGHT, 100) == 2 * (100 * (layers + attention) + 151_936 * 4096)


def test_limits_divide_by_what_the_card_reached() -> None:
    limit = compute_limit(EIGHT, "int8", FULL, 2800, RATES)
    assert limit.vision_s == pytest.approx(300 * vision_operations(EIGHT, 512) / 8e14)
    assert limit.prefill_s == pytest.approx(30 * prefill_operations(EIGHT, 2800) / 8e14)
    assert limit.lone_step_s == pytest.approx(step_bytes(EIGHT, "int8", 1, 2928) / 4e12)


def test_prompts_have_their_number_of_tokens_and_replies_cannot_end_early() -> None:
    tokenizer = make_tokenizer(8000)
    assert len(tokenizer) == 7960
    chat = ChatForm(tokenizer)
    requests = Requests(chat)
    # 220 of text with the marks, or the last word less; 2,560 of pictures.
    assert 2780 - 5 <= requests.prompt_tokens(FULL) <= 2780
    one = requests.make(FULL.part(1))[0]
    grammars = Grammars(tokenizer, 8000, tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    grammar, mask = grammars.start(one.json_schema), grammars.new_mask(1)
    for _ in range(one.max_new_tokens):
        assert not grammar.finished
        grammars.fill(mask, [(0, grammar)])
        allowed = [i for i in range(7960) if mask[0, i // 32] >> (i % 32) & 1]
        grammar.advance(max(allowed, key=lambda token: len(grammars.spell(token))))


def test_caps_tell_the_plan_and_what_became_of_it(tmp_path: Path) -> None:
    main(["--shape", "tiny", "--quick", "--caps", "2,0.1", "--out", str(tmp_path)])
    roomy, tight = json.loads((tmp_path / "caps.json").read_text())["caps"]
    assert (roomy["fits"], roomy["precision"], roomy["failed_chunks"]) == (True, "int8", 0)
    assert tight["fits"] is False  # 0.1 GiB are not even enough for a CUDA context
    assert "failed_chunks" not in tight


def test_peaks_come_in_the_form_the_planner_is_tested_with(tmp_path: Path) -> None:
    main(["--shape", "tiny", "--quick", "--peaks", "--out", str(tmp_path)])
    peaks = json.loads((tmp_path / "peaks.json").read_text())["peaks"]
    assert [(peak["path"], peak["precision"]) for peak in peaks] == [
        (path, precision) for precision in ("int8", "bf16", "nf4") for path in ("engine", "stock")
    ]
    for peak in peaks:
        load = Load(**peak["load"])
        predicted = predict_memory(SHAPES["tiny"], peak["precision"], load, peak["path"]).allocated_bytes
        assert peak["predicted_gib"] * GIB == pytest.approx(predicted)


def test_an_unknown_row_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--rows", "theirs-int8"])
    assert "no such row: theirs-int8" in capsys.readouterr().err
