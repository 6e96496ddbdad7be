from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

from medvl.errors import ModelError
from medvl.reader.checkpoint import (
    Preferences,
    check_complete,
    find_damage,
    fingerprint,
    missing_files,
    read_end_ids,
    read_preferences,
    read_shape,
)
from medvl.reader.tiny import TINY_SHAPE


def write_tensors(path: Path, *names: str, rows: int = 4) -> None:
    """A safetensors file of float32 vectors, written by the format's description."""
    length = rows * 4
    header = {
        name: {"dtype": "F32", "shape": [rows], "data_offsets": [i * length, (i + 1) * length]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(length * len(names)))


def make_sharded(folder: Path, rows: int = 4) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    write_tensors(folder / "a.safetensors", "one", "two", rows=rows)
    write_tensors(folder / "b.safetensors", "three", rows=rows)
    weight_map = {"one": "a.safetensors", "two": "a.safetensors", "three": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_the_shape_is_the_configurations(tiny_folder: Path) -> None:
    assert read_shape(tiny_folder) == TINY_SHAPE


def test_a_folder_without_configuration_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks config\.json"):
        read_shape(tmp_path)


def test_a_configuration_that_is_no_json_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        read_shape(tmp_path)


def test_a_configuration_that_is_no_object_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds no JSON object"):
        read_shape(tmp_path)


def test_preferences_are_read(tiny_folder: Path) -> None:
    assert read_preferences(tiny_folder) == Preferences(
        size_px=256, chunk="6", warning="random weights: findings are meaningless"
    )


def test_a_checkpoint_without_preferences_has_none(tmp_path: Path) -> None:
    assert read_preferences(tmp_path) == Preferences()


def test_unknown_preferences_are_named(tmp_path: Path) -> None:
    (tmp_path / "medvl.json").write_text('{"sise": 1, "size_px": 2, "colour": 3}')
    with pytest.raises(ModelError, match="sets colour, sise"):
        read_preferences(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"size_px": "256"}', "size_px to '256'.*a whole number"),
        ('{"size_px": true}', "size_px to True.*a whole number"),
        ('{"windows": ["lung", 3]}', "windows to .*a list of texts"),
        ('{"evaluated": 1}', "evaluated to 1.*true or false"),
    ],
)
def test_a_preference_of_the_wrong_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "medvl.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        read_preferences(tmp_path)


def test_windows_come_as_a_tuple(tmp_path: Path) -> None:
    (tmp_path / "medvl.json").write_text('{"windows": ["lung", "bone"]}')
    assert read_preferences(tmp_path).windows == ("lung", "bone")


def test_end_tokens_come_from_the_generation_settings_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"eos_token_id": 7}}')
    assert read_end_ids(tmp_path) == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert read_end_ids(tmp_path) == (3, 4)


def test_a_checkpoint_that_names_no_end_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="which token ends a reply"):
        read_end_ids(tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "m")
    (folder / "b.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    assert missing_files(folder) == ("tokenizer.json", "b.safetensors")
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json, b\.safetensors"):
        check_complete(folder)


def test_the_fingerprint_changes_with_one_bit_of_one_weight(tiny_folder: Path, tiny_copy: Path) -> None:
    assert fingerprint(tiny_copy) == fingerprint(tiny_folder)
    flip(tiny_copy / "model.safetensors", 3_000_000)
    assert fingerprint(tiny_copy) != fingerprint(tiny_folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_the_fingerprint_changes_with_each_deciding_file(tiny_folder: Path, tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).write_text((tiny_copy / name).read_text() + " ")
    assert fingerprint(tiny_copy) != fingerprint(tiny_folder)


def test_the_fingerprint_does_not_change_with_what_a_checkpoint_prefers(tiny_folder: Path, tiny_copy: Path) -> None:
    (tiny_copy / "medvl.json").write_text('{"size_px": 512}')
    assert fingerprint(tiny_copy) == fingerprint(tiny_folder)


def test_the_fingerprint_tells_shards_apart_by_name_and_size(tmp_path: Path) -> None:
    ours, theirs = make_sharded(tmp_path / "a"), make_sharded(tmp_path / "b", rows=5)
    assert fingerprint(ours) != fingerprint(theirs)


def test_the_fingerprint_of_17_gb_takes_less_than_a_second(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "m")
    for name in ("a.safetensors", "b.safetensors"):
        with (folder / name).open("r+b") as file:
            file.truncate(8_500_000_000)  # sparse: takes no room
    before = fingerprint(folder)
    with (folder / "b.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    start = time.perf_counter()
    assert fingerprint(folder) != before
    assert time.perf_counter() - start < 1


def test_a_whole_checkpoint_has_no_damage(tiny_folder: Path, tmp_path: Path) -> None:
    assert find_damage(tiny_folder) == {}
    assert find_damage(make_sharded(tmp_path / "m")) == {}


def test_a_shard_cut_short_is_damage(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "m")
    shard = folder / "b.safetensors"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-3])
    assert find_damage(folder) == {"b.safetensors": f"it has {size - 3} bytes; its header asks for {size}"}


def test_a_shard_that_lacks_a_promised_tensor_is_damage(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "m")
    write_tensors(folder / "a.safetensors", "one")
    assert find_damage(folder) == {"a.safetensors": "1 tensors differ from the index"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "claims 0 bytes of 0"),
        (struct.pack("<Q", 1 << 40) + b"{}", f"claims {1 << 40} bytes of 10"),
        (struct.pack("<Q", 2) + b"{]", "cannot be read"),
        (struct.pack("<Q", 2) + b"[]", "cannot be read"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "cannot be read"),
    ],
)
def test_a_header_that_makes_no_sense_is_damage(tmp_path: Path, content: bytes, message: str) -> None:
    folder = make_sharded(tmp_path / "m")
    (folder / "a.safetensors").write_bytes(content)
    assert message in find_damage(folder)["a.safetensors"]


def test_tensors_that_overlap_are_damage(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "m")
    header = {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("one", "two")}
    text = json.dumps(header).encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    assert "tensor two does not fit its place" in find_damage(folder)["a.safetensors"]
