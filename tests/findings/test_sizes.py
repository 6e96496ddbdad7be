from __future__ import annotations

import pytest

from medvl.findings.sizes import typed_size_mm


@pytest.mark.parametrize(
    ("text", "size_mm"),
    [
        ("12 mm", 12.0),
        ("a 5-mm nodule", 5.0),
        ("1.2 cm mass", 12.0),
        ("1,2 cm", 12.0),
        ("8 millimeters", 8.0),
        ("8 x 6 mm", 8.0),
        ("0.9 × 1.2 cm", 12.0),
        ("8mm x 6mm", 8.0),
        ("8–10 mm", 10.0),
        ("8 to 10 millimetres", 10.0),
        ("12毫米", 12.0),
        ("约１２毫米大小", 12.0),
        ("1.5厘米", 15.0),
        ("1.5 公分", 15.0),
    ],
)
def test_a_size_is_read_in_millimetres(text: str, size_mm: float) -> None:
    assert typed_size_mm(text) == pytest.approx(size_mm)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "solid nodule in segment 6",
        "12 mm from the pleura",
        "seen at z = -120.5 mm",
        "12 mmHg",
        "12毫米汞柱",
        "3 mm² and 4 cm3",
        "12 mmol",
        "3平方厘米",
        "20245 mm",
    ],
)
def test_what_is_no_size_is_not_read_as_one(text: str) -> None:
    assert typed_size_mm(text) is None


def test_the_largest_of_all_texts_counts() -> None:
    assert typed_size_mm("nodule, 4 mm", "", "grown from 6 mm to 1.1 cm") == pytest.approx(11.0)


def test_a_flood_of_digits_is_read_in_no_time() -> None:
    assert typed_size_mm("1" * 10_000, "1 x " * 5_000) is None
