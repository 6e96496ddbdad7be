from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medvl.reader.qwen import QwenReader, load_qwen_reader
from medvl.reader.tiny import build_tiny_checkpoint, example_replies
from medvl.reader.weights import ModelLocation
from medvl.settings import Precision


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint whose tokenizer does not change with the prompts. Shared: change a `tiny_copy` instead."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_checkpoint(folder, corpus=example_replies())
    return folder


@pytest.fixture
def tiny_copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> ModelLocation:
    return ModelLocation("tiny", tiny_folder, "folder")


@pytest.fixture(scope="session")
def load_tiny(tiny: ModelLocation) -> Callable[[Precision], QwenReader]:
    """Readers of the tiny checkpoint, each precision loaded once."""
    loaded: dict[Precision, QwenReader] = {}

    def load(precision: Precision) -> QwenReader:
        if precision not in loaded:
            loaded[precision] = load_qwen_reader(tiny, precision)
        return loaded[precision]

    return load
