"""Every odd real file against the table that says what is right for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medvl.dicom.scan import scan
from tests.dicom.edge_table import ARCHIVE, Row, observe, read_table, unpack

IMAGES_NOT_READ = "not an image"  # segmentations, parametric maps and doses have pixels, but none that show a patient


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    if not ARCHIVE.exists():
        pytest.skip("the folder of real DICOM files is not beside this checkout")
    return unpack(tmp_path_factory.mktemp("edge"))


@pytest.fixture(scope="module")
def observed(edge) -> dict[str, Row]:
    (edge.parent / "alone").mkdir()
    return {row.file: row for row in observe(edge, edge.parent / "alone")}


def test_every_odd_file_is_read_or_listed_as_the_table_says(observed):
    expected = read_table()
    assert len(expected) == 261
    assert set(observed) == set(expected)
    for name, row in expected.items():
        seen = observed[name]
        assert replace(seen, mean="", why="", readable_elsewhere="") == replace(
            row, mean="", why="", readable_elsewhere=""
        )
        assert row.mean == seen.mean or abs(float(row.mean) - float(seen.mean)) < 0.5, name


def test_every_image_that_another_reader_reads_is_read(observed):
    for name, row in read_table().items():
        if row.readable_elsewhere:
            assert observed[name].frames or row.listed.startswith(IMAGES_NOT_READ), name


def test_every_row_says_why_it_is_right():
    assert [row.file for row in read_table().values() if not row.why] == []


def test_both_real_indexes_lead_to_their_files(edge):
    indexes = sorted(edge.rglob("DICOMDIR"))
    assert [scan([path]).file_count for path in indexes] == [31, 50]
