import pytest

from medvl.report.formats import age_years, clock, decimal, duration, iso_date, person_name, plain_text, whole_mm


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe^Jane^Ann^Dr^PhD", "Doe, Jane Ann, Dr, PhD"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎)"),
        ("=山田^太郎", "山田 太郎"),
        ("Doe", "Doe"),
        ("^^^^", ""),
        ("", ""),
    ],
)
def test_person_names_are_written_as_people_write_them(stored, shown):
    assert person_name(stored) == shown


def test_dates_and_times_are_iso_and_anything_else_stays_as_it_is():
    assert iso_date("20261122") == "2026-11-22"
    assert iso_date("2026.11.22") == "2026-11-22"  # the form of ACR-NEMA
    assert iso_date("2026") == "2026"
    assert clock("101500.25") == "10:15"
    assert clock("noon") == "noon"


def test_age_counts_birthdays():
    assert age_years("19800302", "20261122") == 46
    assert age_years("19801123", "20261122") == 45  # the day before the birthday
    assert age_years("19801122", "20261122") == 46  # on it
    assert age_years("", "20261122") is None
    assert age_years("20270101", "20261122") is None


def test_numbers_have_a_true_minus_sign_and_no_needless_zeros():
    assert decimal(-118.0) == "−118"
    assert decimal(0.703125, 3) == "0.703"
    assert decimal(-0.04) == "0"
    assert decimal(None) == "–"
    assert whole_mm(12.4) == "12"
    assert whole_mm(0.3) == "<1"
    assert whole_mm(120.0) == "120"


def test_durations_read_as_people_say_them():
    assert duration(8.4) == "8 s"
    assert duration(252) == "4 min 12 s"
    assert duration(3900) == "1 h 05 min"


def test_reordering_and_control_characters_become_visible():
    assert plain_text("a\u202eb\u2066c\x00d\x1be\u200bf\udce9g") == "a�b�c�d�e�f�g"
    assert plain_text("two\nlines, 王 and Größe") == "two\nlines, 王 and Größe"


def test_endless_text_is_cut_and_says_by_how_much():
    shown = plain_text("W" * 100_000)
    assert shown == "W" * 600 + " … (+99,400)"
