import stat
import threading

import pytest

from medvl.errors import OutputError
from medvl.ledger import Entry, Ledger, entry_key, lock
from medvl.records import ReaderIdentity, Reading, Token

READING = Reading('{"findings": []}', (Token('{"', 0.75), Token("findings", 1.0)), True, 120, 0.5)
READER = ReaderIdentity("demo", "abc", "int8", "CPU", "greedy", (("torch", "2.13.0"),))
ENTRY = Entry(READING, READER, ((128.5, 200.0), None), ((1, 0, "truncated"),))


def test_an_entry_comes_back_as_it_was_saved(tmp_path):
    key = entry_key({"pixels": ["a"]})
    Ledger(tmp_path).save(key, ENTRY, {"pixels": ["a"]})
    assert Ledger(tmp_path).find(key) == ENTRY


def test_another_question_has_another_key():
    keys = {entry_key({"pixels": [a], "prompt": b}) for a in "xy" for b in "xy"}
    assert len(keys) == 4
    assert entry_key({"a": 1, "b": 2}) == entry_key({"b": 2, "a": 1})


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_entry_counts_as_missing(tmp_path, damage):
    key = entry_key({"pixels": ["a"]})
    Ledger(tmp_path).save(key, ENTRY, {})
    (tmp_path / f"{key}.json").write_bytes(damage)
    assert Ledger(tmp_path).find(key) is None


def test_an_entry_that_cannot_be_opened_counts_as_missing(tmp_path):
    key = entry_key({"pixels": ["a"]})
    (tmp_path / f"{key}.json").mkdir()
    assert Ledger(tmp_path).find(key) is None


def test_an_entry_renamed_to_another_key_is_not_believed(tmp_path):
    key, other = entry_key({"n": 1}), entry_key({"n": 2})
    Ledger(tmp_path).save(key, ENTRY, {})
    (tmp_path / f"{key}.json").rename(tmp_path / f"{other}.json")
    assert Ledger(tmp_path).find(other) is None


def test_files_are_private_and_nothing_is_left_over(tmp_path):
    folder = tmp_path / "ledger"
    Ledger(folder).save(entry_key({}), ENTRY, {})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Ledger(tmp_path / "file" / "ledger").save(entry_key({}), ENTRY, {})


def test_clearing_forgets_everything(tmp_path):
    Ledger(tmp_path).save(entry_key({}), ENTRY, {})
    Ledger(tmp_path).clear()
    assert len(Ledger(tmp_path)) == 0


def test_a_second_run_says_that_it_waits_and_then_goes_on(tmp_path):
    events: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with lock(tmp_path, on_wait=lambda: (events.append("waits"), waits.set())):
            events.append("reads")

    with lock(tmp_path, on_wait=lambda: events.append("never")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(timeout=10)
        events.append("first ends")
    thread.join(timeout=10)
    assert events == ["waits", "first ends", "reads"]


def test_what_a_crashed_run_left_half_written_is_removed(tmp_path):
    leftover = tmp_path / ".index.html.abc.part"
    leftover.write_text("half a page")
    with lock(tmp_path):
        assert not leftover.exists()
