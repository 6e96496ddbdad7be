"""Draws a training's log as a curve: `python -m training.curve log.jsonl curve.svg`. Standard library only."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _LOWER = 720, 360, 56, 36
_LOWEST, _HIGHEST = 0.001, 10.0  # of the logarithmic axis
_LINES = (
    ("reply usual", "#1f6fb4", "loss of the reply, chunks of 5 to 8 pictures"),
    ("lesions", "#c8553d", "loss of the map of lesions"),
    ("missed", "#3a8a4d", "chunks with a finding called empty"),
    ("false", "#7a4fa3", "empty chunks called otherwise"),
)

Points = Sequence[tuple[int, float]]


def read_points(path: Path, name: str) -> Points:
    """Read one quantity of a log as (step, value); "missed" is what was not found."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if name == "missed":
        return [(entry["step"], 1 - entry["found"]) for entry in entries if "found" in entry]
    return [(entry["step"], entry[name]) for entry in entries if name in entry]


def draw_curve(path: Path) -> str:
    """Return a log as SVG: steps to the right, losses and shares upwards on a logarithmic axis."""
    lines = [(read_points(path, name), colour, title) for name, colour, title in _LINES]
    last = max(step for points, _, _ in lines for step, _ in points)
    parts = [_axis(last)]
    for number, (points, colour, title) in enumerate(lines):
        places = " ".join(f"{_x(step, last):.1f},{_y(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{_WIDTH - 300}" y="{20 + 16 * number}" fill="{colour}">{title}</text>')
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>', *parts, "</svg>\n"])


def _axis(last: int) -> str:
    marks = []
    for power in range(-3, 2):
        y = _y(10.0**power)
        marks.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 10}" stroke="#ddd"/>')
        marks.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{10.0**power:g}</text>')
    for step in range(0, last + 1, 1000):
        place = f'x="{_x(step, last):.1f}" y="{_HEIGHT - 14}"'
        marks.append(f'<text {place} text-anchor="middle" fill="#555">{step}</text>')
    return "\n".join(marks)


def _x(step: int, last: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - 10) * step / last


def _y(value: float) -> float:
    part = math.log(min(max(value, _LOWEST), _HIGHEST) / _LOWEST) / math.log(_HIGHEST / _LOWEST)
    return 10 + (_HEIGHT - _LOWER - 10) * (1 - part)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw_curve(Path(sys.argv[1])), encoding="utf-8")
