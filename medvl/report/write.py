"""Puts reports on disk: whole or not at all, readable by their owner only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medvl.files import cannot_write, write_private
from medvl.report.document import ReportDocument
from medvl.report.schema import document_json

REPORT_FILE = "report.json"
IMAGE_FOLDER = "images"


def write_study(folder: Path, document: ReportDocument, images: Mapping[str, bytes]) -> None:
    """Write a study's images/ and then its report.json, so that a report never names an image not yet there.

    images: file name → bytes; those already on disk may be left out, those the document does not name are removed.
    The document is stored as it is: pass it through `deidentified` first when identity must not reach the disk.
    Raises OutputError.
    """
    image_folder = folder / IMAGE_FOLDER
    for name, content in images.items():
        write_private(image_folder / Path(name).name, content)
    write_private(folder / REPORT_FILE, document_json(document))
    _remove_others(image_folder, image_names(document))


def image_names(document: ReportDocument) -> frozenset[str]:
    """Return the names of all pictures a report shows."""
    sheets = (view.contact_sheet for series in document.series for view in series.views)
    return frozenset(name for name in (*(image.file for image in document.key_images), *sheets) if name)


def _remove_others(folder: Path, names: frozenset[str]) -> None:
    try:
        for path in [path for path in folder.glob("*") if path.name not in names]:
            path.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error
