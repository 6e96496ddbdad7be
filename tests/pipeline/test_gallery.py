"""The viewer's pictures, made from DICOM files and read back as a browser would."""

import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medvl.dicom.frames import pixel_digest
from medvl.dicom.scan import scan
from medvl.pipeline.gallery import update_galleries
from medvl.pipeline.reading import frame_key
from medvl.pipeline.views import Wanted, plan_views
from medvl.prompts import load_prompts
from tests.builders import write_series

SIZE = 64


def planned(folder, **wanted):
    return plan_views(scan([folder]).studies[0], Wanted(**wanted), load_prompts())


def update(out, study):
    digests = {frame_key(each.frame): pixel_digest(each.frame) for stack in study.stacks for each in stack.slices}
    update_galleries(out, study, digests)


def galleries(out):
    return json.loads((out / "viewer" / "galleries.json").read_text("utf-8"))


def pictures(out, gallery):
    """Return the levels of every slice, (rows, columns); None where there is no picture."""
    found = []
    for path in sorted((out / "viewer").glob(f"{gallery['name']}-*.js")):
        call = re.fullmatch(r"medvlPack\((.*)\);\n", path.read_text("ascii"))
        name, number, pack = json.loads(f"[{call[1]}]")
        assert (name, number) == (gallery["name"], len(found) // 16)
        found += [np.asarray(Image.open(BytesIO(b64decode(each)))) if each else None for each in pack]
    return found


def hu(*values):
    """Stored pixels of 64 by 64 in quarters of the given HU: upper left, upper right, lower left, lower right."""
    quarters = np.array(values).reshape(2, 2) + 1024
    return np.kron(quarters, np.ones((SIZE // 2, SIZE // 2))).astype(np.uint16)


def test_levels_stand_for_the_slices_own_hu(tmp_path):
    write_series(tmp_path / "in", count=3, pixels=hu(-800, 40, -100, 700))
    update(tmp_path, planned(tmp_path / "in"))
    [gallery] = galleries(tmp_path)
    values = np.array(gallery["values"])
    shown = values[pictures(tmp_path, gallery)[1]]
    quarters = [shown[16, 16], shown[16, 48], shown[48, 16], shown[48, 48]]
    # A level is 17 HU wide in lung, 1.5 in soft tissue, 4.7 in fat, 25 in bone; JPEG may take the next one.
    assert abs(np.array(quarters) - (-800, 40, -100, 700)).tolist() <= [34, 3, 10, 50]
    assert np.all(abs(np.array(quarters) - (-800, 40, -100, 700)) <= (34, 3, 10, 50))


def test_values_never_fall_from_level_to_level(tmp_path):
    write_series(tmp_path / "in", count=3)
    update(tmp_path, planned(tmp_path / "in"))
    values = galleries(tmp_path)[0]["values"]
    assert len(values) == 256
    assert values == sorted(values)
    assert (values[0], values[-1]) == (-2048, 3071)


def test_padding_is_darker_than_air(tmp_path):
    stored = np.full((SIZE, SIZE), 24, np.int16)  # −1000 HU
    stored[:, :32] = -2000
    write_series(tmp_path / "in", count=3, pixels=stored, padding=-2000)
    update(tmp_path, planned(tmp_path / "in"))
    [gallery] = galleries(tmp_path)
    picture = pictures(tmp_path, gallery)[0]
    assert gallery["values"][picture[32, 8]] == -2048
    assert gallery["values"][picture[32, 56]] == pytest.approx(-1000, abs=34)


def test_pictures_are_turned_for_display(tmp_path):
    # Prone: rows run to the patient's right, columns to anterior; display turns both round.
    prone = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    write_series(tmp_path / "in", count=3, iop=prone, position=(25, 25, 0), pixels=hu(1000, -1000, -1000, -1000))
    update(tmp_path, planned(tmp_path / "in"))
    picture = pictures(tmp_path, galleries(tmp_path)[0])[0]
    assert picture[48, 48] > 200 > picture[16, 16]


def test_the_gallery_tells_what_the_viewer_needs(tmp_path):
    write_series(tmp_path / "in", count=20, rows=SIZE, columns=SIZE)
    update(tmp_path, planned(tmp_path / "in", windows=("lung", "bone")))
    [gallery] = galleries(tmp_path)
    assert (gallery["slice_count"], gallery["side_px"], gallery["mm_per_px"]) == (20, 64, pytest.approx(0.8))
    assert gallery["positions_mm"][:2] == [47.5, 45.0]  # from the head down
    assert gallery["spacing_mm"] == 2.5
    assert [window["name"] for window in gallery["windows"]][:4] == ["lung", "bone", "brain", "subdural"]
    assert gallery["views"] == ["lung", "bone"]
    assert len(pictures(tmp_path, gallery)) == 20


def test_values_without_hu_keep_half_as_much_again_as_their_window(tmp_path):
    write_series(tmp_path / "in", count=3, modality="MR", intercept=0.0, windows=((300, 200),))
    update(tmp_path, planned(tmp_path / "in", windows=("header",)))
    [gallery] = galleries(tmp_path)
    assert (gallery["values"][0], gallery["values"][-1]) == (150, 450)  # 300 ± 200 · 1.5 / 2
    assert [(window["center"], window["width"]) for window in gallery["windows"]] == [(300, 200)]


def test_a_finished_gallery_is_not_made_again(tmp_path):
    write_series(tmp_path / "in", count=3)
    study = planned(tmp_path / "in")
    update(tmp_path, study)
    packs = {path: path.stat().st_mtime_ns for path in (tmp_path / "viewer").glob("*.js")}
    update(tmp_path, study)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "viewer").glob("*.js")} == packs


def test_other_pixels_make_another_gallery_and_the_old_one_goes(tmp_path):
    write_series(tmp_path / "in", count=3)
    update(tmp_path, planned(tmp_path / "in"))
    [before] = galleries(tmp_path)
    write_series(tmp_path / "in", count=3, pixels=7)
    update(tmp_path, planned(tmp_path / "in"))
    [after] = galleries(tmp_path)
    assert before["name"] != after["name"]
    assert [path.name for path in (tmp_path / "viewer").glob("*.js")] == [f"{after['name']}-000.js"]


def test_an_unfinished_gallery_is_finished(tmp_path):
    write_series(tmp_path / "in", count=20)
    study = planned(tmp_path / "in")
    update(tmp_path, study)
    second = sorted((tmp_path / "viewer").glob("*.js"))[1]
    whole = second.read_bytes()
    second.unlink()
    update(tmp_path, study)
    assert second.read_bytes() == whole


def test_a_slice_that_cannot_be_decoded_has_no_picture(tmp_path):
    paths = write_series(tmp_path / "in", count=3)
    study = planned(tmp_path / "in")
    digests = {frame_key(each.frame): pixel_digest(each.frame) for each in study.stacks[0].slices}
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    update_galleries(tmp_path, study, digests)
    assert [picture is None for picture in pictures(tmp_path, galleries(tmp_path)[0])] == [False, True, False]


def test_files_are_for_their_owner_only(tmp_path):
    write_series(tmp_path / "in", count=3)
    update(tmp_path, planned(tmp_path / "in"))
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "viewer").iterdir()} == {"0o600"}
