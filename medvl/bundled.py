"""Finds the files shipped with medvl: prompts, the sample study, the demo model."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def bundled_path(name: str) -> Path:
    """Return where the bundled folder `name` lies: inside an installed package, or at the top of a checkout."""
    installed = _PACKAGE / "_bundled" / name
    return installed if installed.exists() else _PACKAGE.parent / name
