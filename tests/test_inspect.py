from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medvl.cli import app
from tests.builders import write_series


def test_inspect_decodes_no_pixels_though_no_header_names_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDVL_HOME", str(tmp_path / "home"))
    decoded: list[object] = []
    monkeypatch.setattr("medvl.dicom.stack_window.load_rescaled", decoded.append)
    write_series(tmp_path / "study", count=4)
    told = CliRunner().invoke(app, ["inspect", str(tmp_path / "study")])
    assert told.exit_code == 0, told.output
    assert "4 frames" in told.output and decoded == []
