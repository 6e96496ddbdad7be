from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from training.curve import draw_curve, read_points

LOG = Path(__file__).parents[2] / "training" / "log.jsonl"


def test_the_log_shows_how_much_was_missed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 10, "found": 0.25}\n{"step": 20, "held_out": {}}\n')
    assert read_points(tmp_path / "log.jsonl", "missed") == [(10, 0.75)]


def test_the_committed_curve_is_that_of_the_committed_log() -> None:
    drawn = draw_curve(LOG)
    assert LOG.with_name("curve.svg").read_text(encoding="utf-8") == drawn
    lines = [child for child in ElementTree.fromstring(drawn) if child.tag.endswith("polyline")]
    assert len(lines) == 4


def test_a_log_without_steps_has_no_curve(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty"):
        draw_curve(tmp_path / "log.jsonl")
