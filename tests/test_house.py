"""Holds the floor plan: rooms import downwards only, and the light ones stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medvl"
VALUES = {"errors", "records", "settings", "address", "stated", "bundled", "text", "files"}
FLOORS = [
    VALUES,
    {"dicom", "planning", "prompts", "findings", "guidelines", "ledger"},
    {"reader", "report"},
    {"pipeline", "export"},
    {"progress", "evaluate"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TORCH_ROOMS = {"reader", "evaluate"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return froms | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_downwards_only(path):
    floor = FLOOR_OF[room_of(path)]
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("medvl.")}
    assert {room for room in rooms - {room_of(path)} if FLOOR_OF[room] >= floor > 0} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_reader_imports_torch(path):
    heavy = {name.split(".")[0] for name in imports(path)} & {"torch", "transformers", "bitsandbytes"}
    assert not heavy or room_of(path) in TORCH_ROOMS


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["plan", "--help"], ["study", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
from medvl.cli import app
try:
    app({arguments!r})
except SystemExit:
    pass
sys.exit(bool({{"torch", "transformers", "pydicom", "numpy"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
