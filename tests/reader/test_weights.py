from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from medvl.errors import ModelError, OutputError, SettingsError
from medvl.planning.shape import PUBLISHED_SHAPES
from medvl.reader.tiny import TINY_SHAPE
from medvl.reader.weights import (
    ModelLocation,
    find_shape,
    list_models,
    locate_model,
    pull_model,
    remove_model,
    verify_model,
)

ID = "Some/Tiny-VL"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no way to the network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def fill_hub_cache(cache: Path, checkpoint: Path, name: str = ID) -> Path:
    """Lay a checkpoint out as the hub's client does: blobs named by digest, a snapshot of links to them."""
    repo = cache / f"models--{name.replace('/', '--')}"
    commit = "1" * 40
    snapshot = repo / "snapshots" / commit
    for folder in (repo / "blobs", snapshot, repo / "refs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    for path in checkpoint.iterdir():
        content = path.read_bytes()
        large = path.suffix == ".safetensors"
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        blob = repo / "blobs" / (hashlib.sha256(content).hexdigest() if large else git)
        blob.write_bytes(content)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def problems(name: str, store: Path) -> dict[str, str]:
    return {check.name: check.problem for check in verify_model(name, store) if check.problem}


def test_a_folder_is_its_own_model(tiny_folder: Path, store: Path) -> None:
    assert locate_model(str(tiny_folder), store) == ModelLocation("tiny", tiny_folder, "folder")


def test_a_missing_model_says_every_way_to_get_it(store: Path) -> None:
    with pytest.raises(ModelError, match="Qwen/Nothing is not on this machine") as caught:
        locate_model("Qwen/Nothing", store)
    told = str(caught.value)
    assert "`medvl models pull Qwen/Nothing`" in told
    assert "`medvl models pull Qwen/Nothing --from FOLDER`" in told
    assert "HF_HOME" in told
    assert "--model demo" in told
    assert caught.value.exit_status == 5


@pytest.mark.parametrize("name", ["no/such/folder/at/all", "", "two words", "../.."])
def test_what_is_no_model_at_all_is_a_sentence_too(store: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"is not on this machine|lacks"):
        locate_model(name, store)


def test_an_incomplete_folder_names_what_it_lacks(tiny_copy: Path, store: Path) -> None:
    (tiny_copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        locate_model(str(tiny_copy), store)


def test_the_hubs_cache_is_found_without_asking_the_hub(tiny_folder: Path, store: Path, hub_cache: Path) -> None:
    snapshot = fill_hub_cache(hub_cache, tiny_folder)
    assert locate_model(ID, store) == ModelLocation(ID, snapshot, "hub")


def test_a_download_cut_off_names_what_is_missing(tiny_folder: Path, store: Path, hub_cache: Path) -> None:
    snapshot = fill_hub_cache(hub_cache, tiny_folder)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors.*pull"):
        locate_model(ID, store)


def test_a_copy_goes_before_the_hubs_cache(tiny_folder: Path, store: Path, hub_cache: Path) -> None:
    fill_hub_cache(hub_cache, tiny_folder)
    copy = pull_model(ID, store, tiny_folder)
    assert locate_model(ID, store) == copy == ModelLocation(ID, store / "Some--Tiny-VL", "copy")


def test_the_demo_model_comes_with_medvl_and_stays(store: Path) -> None:
    assert locate_model("demo", store).origin == "demo"
    assert not store.exists()
    with pytest.raises(ModelError, match="The demo model is a part of medvl"):
        remove_model("demo", store)


def test_a_shape_is_known_for_a_published_model_that_is_not_here(store: Path, tiny_folder: Path) -> None:
    assert find_shape("Qwen/Qwen3-VL-4B-Instruct", store) == PUBLISHED_SHAPES["Qwen/Qwen3-VL-4B-Instruct"]
    assert find_shape(str(tiny_folder), store) == TINY_SHAPE
    with pytest.raises(ModelError, match="Unknown/Model is not on this machine"):
        find_shape("Unknown/Model", store)


def test_pulling_from_a_folder_copies_all_and_reports_progress(tiny_folder: Path, store: Path) -> None:
    seen: list[tuple[int, int]] = []
    copy = pull_model(ID, store, tiny_folder, lambda done, total: seen.append((done, total)))
    assert (copy.folder / "model.safetensors").read_bytes() == (tiny_folder / "model.safetensors").read_bytes()
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in tiny_folder.iterdir())
    assert problems(ID, store) == {}


def test_pulling_an_incomplete_folder_leaves_nothing_behind(tiny_copy: Path, store: Path) -> None:
    (tiny_copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json"):
        pull_model(ID, store, tiny_copy)
    assert not store.exists()


def test_pulling_another_architecture_is_refused(tiny_copy: Path, store: Path) -> None:
    (tiny_copy / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ModelError, match="holds BertModel"):
        pull_model(ID, store, tiny_copy)


def test_a_store_that_cannot_be_written_is_a_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        pull_model(ID, blocked, tiny_folder)


@pytest.mark.parametrize("name", ["", "..", "../up", "demo", "a/b/c", ".hidden"])
def test_a_name_that_could_leave_the_store_is_refused(tiny_folder: Path, store: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="is no name for a model"):
        pull_model(name, store, tiny_folder)


def test_pulling_without_a_network_says_what_else_to_do(store: Path) -> None:
    with pytest.raises(ModelError, match=r"The hub did not give Some/Tiny-VL.*--from FOLDER"):
        pull_model(ID, store)


def test_verifying_a_copy_finds_one_flipped_bit(tiny_folder: Path, store: Path) -> None:
    copy = pull_model(ID, store, tiny_folder)
    flip(copy.folder / "model.safetensors", -1)
    assert problems(ID, store) == {"model.safetensors": "its content is not what its sha256 digest says"}


def test_verifying_a_copy_finds_a_lost_file(tiny_folder: Path, store: Path) -> None:
    copy = pull_model(ID, store, tiny_folder)
    (copy.folder / "chat_template.jinja").unlink()
    assert problems(ID, store) == {"chat_template.jinja": "missing"}


@pytest.mark.parametrize(("name", "digest"), [("model.safetensors", "sha256"), ("config.json", "git")])
def test_verifying_the_hubs_cache_finds_one_flipped_bit(
    tiny_folder: Path, store: Path, hub_cache: Path, name: str, digest: str
) -> None:
    snapshot = fill_hub_cache(hub_cache, tiny_folder)
    assert problems(ID, store) == {}
    assert {check.name: check.against for check in verify_model(ID, store)}[name] == digest
    flip((snapshot / name).resolve(), -2)
    assert problems(ID, store) == {name: f"its content is not what its {digest} digest says"}


def test_verifying_a_folder_checks_the_form_of_the_weights(tiny_copy: Path, store: Path) -> None:
    weights = tiny_copy / "model.safetensors"
    assert {check.against for check in verify_model(str(tiny_copy), store)} == {"nothing"}
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "its header asks for" in problems(str(tiny_copy), store)["model.safetensors"]


def test_models_are_listed_wherever_they_lie(tiny_folder: Path, store: Path, hub_cache: Path) -> None:
    pull_model("Our/Copy", store, tiny_folder)
    snapshot = fill_hub_cache(hub_cache, tiny_folder)
    (snapshot / "model.safetensors").unlink()
    (store / "not-a-model").mkdir()
    copy, cached = list_models(store)
    assert (copy.location.name, copy.location.origin, copy.missing) == ("Our/Copy", "copy", ())
    assert copy.size_bytes > 6_000_000
    assert (cached.location.name, cached.location.origin, cached.missing) == (ID, "hub", ("model.safetensors",))


def test_nothing_stored_is_an_empty_list(store: Path) -> None:
    assert list_models(store) == ()


def test_removing_a_copy_frees_its_bytes(tiny_folder: Path, store: Path) -> None:
    copy = pull_model(ID, store, tiny_folder)
    size = sum(path.stat().st_size for path in copy.folder.iterdir())
    assert remove_model(ID, store) == size
    assert list_models(store) == ()


def test_removing_from_the_hubs_cache_frees_its_bytes(tiny_folder: Path, store: Path, hub_cache: Path) -> None:
    fill_hub_cache(hub_cache, tiny_folder)
    assert remove_model(ID, store) > 6_000_000
    assert list_models(store) == ()


def test_a_folder_of_the_users_is_never_removed(tiny_folder: Path, store: Path) -> None:
    with pytest.raises(ModelError, match="is a folder of yours"):
        remove_model(str(tiny_folder), store)
    assert (tiny_folder / "config.json").exists()


def test_removing_what_is_not_there_says_so(store: Path) -> None:
    with pytest.raises(ModelError, match=f"{ID} is not on this machine"):
        remove_model(ID, store)


def test_a_damaged_manifest_says_so(tiny_folder: Path, store: Path) -> None:
    copy = pull_model(ID, store, tiny_folder)
    (copy.folder / "medvl-manifest.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(ModelError, match=r"manifest\.json cannot be read"):
        verify_model(ID, store)


def test_pulling_again_replaces_the_copy(tiny_folder: Path, tiny_copy: Path, store: Path) -> None:
    pull_model(ID, store, tiny_folder)
    flip(tiny_copy / "model.safetensors", -1)
    copy = pull_model(ID, store, tiny_copy)
    assert (copy.folder / "model.safetensors").read_bytes() == (tiny_copy / "model.safetensors").read_bytes()
    assert [path.name for path in store.iterdir()] == ["Some--Tiny-VL"]


def test_finding_and_describing_a_model_imports_no_torch(tiny_folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from medvl.reader.identity import Sampling, identify_reader;"
        "from medvl.reader.weights import locate_model;"
        "identify_reader(locate_model(sys.argv[1], Path(sys.argv[2])), 'int8', Sampling());"
        "sys.exit(bool({'torch', 'transformers', 'bitsandbytes'} & set(sys.modules)))"
    )
    shutil.copytree(tiny_folder, tmp_path / "m")
    assert (
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "m"), str(tmp_path)], check=False).returncode == 0
    )
