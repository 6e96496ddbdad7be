from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from medvl.dicom.decode_pool import DecodePool
from medvl.dicom.decoders import DecodeError
from medvl.dicom.frames import _stored_bytes
from medvl.dicom.instance import read_instance
from medvl.records import Frame, Source
from tests.builders import make_instance, write_dataset

STORED = np.random.default_rng(0).integers(-1024, 3072, (64, 64)).astype(np.int16)


@pytest.fixture
def pool():
    pool = DecodePool()
    yield pool
    pool.close()


def compressed(folder: Path, syntax: str = JPEG2000Lossless) -> tuple[bytes, Frame]:
    path = write_dataset(folder / "slice", make_instance(stored=STORED), syntax)
    frame = read_instance(Source(path, "slice")).frames[0]
    return _stored_bytes(frame), frame


def scripted(folder: Path, body: str) -> DecodePool:
    """Make a pool whose helpers run `body` before they answer as usual; `skip` is the request's."""
    script = folder / "helper.py"
    script.write_text(
        "import json, os, sys, time\n"
        "from medvl.dicom import decode_worker as worker\n"
        "usual = worker.decode_frame\n"
        "def unusual(*args, skip):\n"
        f"    {body}\n"
        "    return usual(*args, skip=skip)\n"
        "worker.decode_frame = unusual\n"
        "worker.main()\n"
    )
    return DecodePool((sys.executable, str(script)))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_helpers_give_what_the_file_holds_to_every_caller(tmp_path, pool, syntax):
    content, frame = compressed(tmp_path, syntax)
    with ThreadPoolExecutor(2) as callers:
        for pixels in callers.map(lambda _: pool.decode(content, frame.layout, 64, 64), range(8)):
            assert pixels.dtype == np.int16
            assert (pixels == STORED).all()
    assert len(pool._idle) <= 2


def test_a_helper_answers_again_after_a_frame_it_could_not_decode(tmp_path, pool):
    content, frame = compressed(tmp_path)
    with pytest.raises(DecodeError, match="its compressed pixels are 64 × 64 of 1 samples"):
        pool.decode(content, frame.layout, 64, 65)
    (helper,) = pool._idle
    assert (pool.decode(content, frame.layout, 64, 64) == STORED).all()
    assert pool._idle == [helper]


def test_where_a_decoder_crashes_the_next_one_is_asked(tmp_path):
    content, frame = compressed(tmp_path)
    pool = scripted(tmp_path, "skip or os.abort()")
    assert (pool.decode(content, frame.layout, 64, 64) == STORED).all()
    pool.close()


def test_a_frame_that_crashes_every_decoder_is_an_error(tmp_path):
    content, frame = compressed(tmp_path)
    pool = scripted(tmp_path, "os.abort()")
    with pytest.raises(DecodeError, match="every decoder crashed over its pixels"):
        pool.decode(content, frame.layout, 64, 64)
    assert pool._idle == []


def test_a_frame_that_takes_for_ever_is_given_up(tmp_path):
    content, frame = compressed(tmp_path)
    pool = scripted(tmp_path, "time.sleep(600)")
    start = time.monotonic()
    with pytest.raises(DecodeError, match=r"decoding its pixels took more than 0\.2 s"):
        pool.decode(content, frame.layout, 64, 64, max_seconds=0.2)
    assert time.monotonic() - start < 30


def test_what_decoders_print_is_not_taken_for_an_answer(tmp_path):
    content, frame = compressed(tmp_path)
    pool = scripted(tmp_path, "os.write(1, b'Marker handler failed\\n')")
    assert (pool.decode(content, frame.layout, 64, 64) == STORED).all()
    pool.close()


def test_helpers_end_with_the_pool(tmp_path, pool):
    content, frame = compressed(tmp_path)
    pool.decode(content, frame.layout, 64, 64)
    (helper,) = pool._idle
    pool.close()
    assert helper.poll() is not None
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(helper.pid, 0)


def test_a_helper_that_decodes_jpeg_2000_starts_without_pydicom(tmp_path):
    content, frame = compressed(tmp_path)
    script = tmp_path / "imported.py"
    script.write_text(
        "import json, sys\n"
        "from medvl.dicom.decode_worker import decode_frame\n"
        "from medvl.records import PixelLayout\n"
        "layout = PixelLayout(**json.loads(sys.argv[1]))\n"
        "pixels = decode_frame(sys.stdin.buffer.read(), layout, 64, 64)\n"
        "print(pixels.dtype, 'pydicom' in sys.modules)\n"
    )
    command = [sys.executable, str(script), json.dumps(asdict(frame.layout))]
    run = subprocess.run(command, input=content, capture_output=True, check=True, cwd=Path(__file__).parents[2])
    assert run.stdout.split() == [b"int16", b"False"]
