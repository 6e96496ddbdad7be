"""The viewer's pictures on disk, and the facts that the page's script needs to show them.

A page opened from a folder may load scripts beside it but no other files, so pictures lie in small scripts, packs of
base64 JPEG, which the viewer loads as it needs them. Knows nothing of DICOM or of how pictures are made.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.files import cannot_write, write_private
from medvl.records import Finding
from medvl.report.coverage import SeriesCoverage
from medvl.report.document import ReportDocument, SeriesReport
from medvl.report.formats import plain_text
from medvl.report.words import Words

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VIEWER_FOLDER = "viewer"
PACK_SLICES = 16
_INDEX_FILE = "galleries.json"
_WORDS = "viewer."  # what the keys of the script's own words begin with


@dataclass(frozen=True, slots=True)
class GalleryWindow:
    """A window the viewer offers, in rescaled values."""

    name: str
    center: float
    width: float


@dataclass(frozen=True, slots=True)
class Gallery:
    """Compressed copies of one stack's slices: square, in display orientation, one a slice."""

    name: str  # names its files; another for other pixels
    slices: str  # `slices_digest` of what it shows
    series_uid: str
    views: tuple[str, ...]
    plane: str
    slice_count: int
    side_px: int
    mm_per_px: float | None
    positions_mm: tuple[float, ...]  # of each slice along the stack's normal; empty without geometry
    spacing_mm: float | None
    values: tuple[float, ...]  # what each of the 256 grey levels stands for
    inverted: bool  # low values are white
    unit: str
    windows: tuple[GalleryWindow, ...]  # the first is shown first


def write_galleries(
    study_folder: Path, galleries: Sequence[Gallery], pictures_of: Callable[[Gallery], Iterator[bytes]]
) -> None:
    """Write the packs that are missing and the list of all; packs of other galleries are removed.

    pictures_of: yields a JPEG for every slice of a gallery, in order; empty for one that cannot be shown. It is not
    called for a gallery that is there. Raises OutputError.
    """
    folder = study_folder / VIEWER_FOLDER
    for gallery in galleries:
        if not all((folder / name).is_file() for name in pack_names(gallery)):
            _write_packs(folder, gallery, pictures_of(gallery))
    listed = json.dumps([asdict(gallery) for gallery in galleries], ensure_ascii=False)
    write_private(folder / _INDEX_FILE, listed.encode("utf-8", "replace"))
    _remove_others(folder, {_INDEX_FILE, *(name for gallery in galleries for name in pack_names(gallery))})


def read_galleries(study_folder: Path, document: ReportDocument) -> tuple[Gallery, ...]:
    """Return the galleries that show just the slices of the report; none for a report without pictures."""
    from pydantic import ValidationError

    try:
        listed = _adapter().validate_json((study_folder / VIEWER_FOLDER / _INDEX_FILE).read_bytes())
    except (OSError, ValidationError):
        return ()
    reported = {(series.uid, _reported_slices(series)) for series in document.series}
    return tuple(gallery for gallery in listed if (gallery.series_uid, gallery.slices) in reported)


def slices_digest(slices: Iterable[tuple[str, int]]) -> str:
    """Digest SOP Instance UID and frame index of slices in reading order."""
    return hashlib.sha256(repr([tuple(each) for each in slices]).encode("utf-8", "replace")).hexdigest()


def pack_names(gallery: Gallery) -> tuple[str, ...]:
    """Return the files that hold a gallery's pictures, in order."""
    count = -(-gallery.slice_count // PACK_SLICES)
    return tuple(f"{gallery.name}-{number:03}.js" for number in range(count))


def viewer_data(
    document: ReportDocument,
    coverage: Sequence[SeriesCoverage],
    galleries: Sequence[Gallery],
    folder: str,
    words: Words,
) -> dict[str, Any]:
    """Gather what the page's script has to know of a study; texts are made plain and bounded.

    folder: the study's, relative to the page.
    """
    own = {key.removeprefix(_WORDS): text for key, text in words.table.items() if key.startswith(_WORDS)}
    return {
        "study_uid": document.study.uid,
        "findings": [_finding(finding) for finding in document.findings],
        "galleries": [
            asdict(gallery)
            | {"packs": [f"{folder}/{VIEWER_FOLDER}/{name}" for name in pack_names(gallery)]}
            | {"pack_slices": PACK_SLICES, "title": _title(gallery, document, words)}
            | {"unread": _unread(gallery, coverage)}
            for gallery in galleries
        ],
        "words": own,
    }


def script_json(content: dict[str, Any]) -> str:
    """Write JSON that may stand inside a script element: nothing in it can end the element."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _write_packs(folder: Path, gallery: Gallery, pictures: Iterator[bytes]) -> None:
    for number, name in enumerate(pack_names(gallery)):
        count = min(PACK_SLICES, gallery.slice_count - number * PACK_SLICES)
        pack = [b64encode(next(pictures)).decode("ascii") for _ in range(count)]
        call = f"medvlPack({json.dumps(gallery.name)},{number},{json.dumps(pack)});\n"
        write_private(folder / name, call.encode("ascii"), durable=False)


def _remove_others(folder: Path, names: set[str]) -> None:
    try:
        for path in [path for path in folder.glob("*") if path.name not in names]:
            path.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error


def _reported_slices(series: SeriesReport) -> str:
    placed = sorted((fate for fate in series.slices if fate.slice is not None), key=lambda fate: fate.slice or 0)
    return slices_digest((fate.sop_instance_uid, fate.frame_index) for fate in placed)


def _finding(finding: Finding) -> dict[str, Any]:
    box = finding.box
    return {
        "number": finding.number,
        "what": plain_text(" · ".join(part for part in (finding.observation, finding.site) if part)),
        "observation": plain_text(finding.observation),
        "series_uid": finding.series_uid,
        "view": finding.view,
        "first": finding.first_slice,
        "last": finding.last_slice,
        "key": finding.key_slice,
        "box": [box.x1, box.y1, box.x2, box.y2],
    }


def _title(gallery: Gallery, document: ReportDocument, words: Words) -> str:
    series = next(each for each in document.series if each.uid == gallery.series_uid)
    number = "–" if series.number is None else series.number
    return plain_text(f"{words('series_name', number=number)} {series.description} · {', '.join(gallery.views)}")


def _unread(gallery: Gallery, coverage: Sequence[SeriesCoverage]) -> list[tuple[int, int]]:
    """List the runs of slices that no view of the gallery's stack has read."""
    strips = [
        strip
        for covered in coverage
        for strip in covered.strips
        if covered.series.uid == gallery.series_uid and strip.view.name in gallery.views
    ]
    read = {number for strip in strips for run in strip.runs if run.chunks for number in range(run.first, run.last + 1)}
    runs: list[tuple[int, int]] = []
    for number in range(1, gallery.slice_count + 1):
        if number in read:
            continue
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


@cache
def _adapter() -> TypeAdapter[tuple[Gallery, ...]]:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[Gallery, ...])
