"""Exports one report in one format: finds it, its review and its study, and writes what was asked for.

The libraries of each format are imported only when it is asked for: they come with `pip install "medvl[export]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from medvl.errors import InputError, SettingsError
from medvl.files import write_private
from medvl.report.review import REVIEW_FILE, ReviewedReport, apply_review, read_review
from medvl.report.schema import read_document
from medvl.report.write import REPORT_FILE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from medvl.export.source import SourceStudy

Format = Literal["dicom-sr", "key-images", "fhir", "pdf", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
EXPORT_FOLDER = "export"  # beside report.json


@dataclass(frozen=True, slots=True)
class Order:
    """What to export, and where to. None: no source, no review but one beside the report, no folder but beside it."""

    report: Path
    source: Path | None = None
    review: Path | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """A report, reviewed if it was, and the folders it comes from and goes to."""

    reviewed: ReviewedReport
    folder: Path
    output: Path
    source: Path | None

    def study(self) -> SourceStudy:
        """Scan the study that the report was written from."""
        from medvl.export.source import load_source

        if self.source is None:
            raise SettingsError(
                "The report does not keep where its study lies",
                expected="DICOM SR and key images are made from the study's own headers and pixels",
                todo="Name its folder with --source",
            )
        return load_source([self.source], self.reviewed.document)


def export_report(order: Order, form: Format) -> tuple[Path, ...]:
    """Write one report in one format and return the files.

    Raises InputError if report, review or source cannot be used, SettingsError if a source or a library is missing,
    OutputError if a file cannot be written.
    """
    case = _open(order)
    with _libraries(form):
        return tuple(_WRITERS[form](case))


def find_report(path: Path) -> Path:
    """Return the one report.json that a path leads to: the file, its study's folder, or its patient's.

    Raises InputError if there is none, or if there are several to choose from.
    """
    if path.is_file():
        return path
    levels = (sorted(path.glob(f"{depth}{REPORT_FILE}")) for depth in ("", "*/", "*/*/"))
    found = next(filter(None, levels), [])
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(each.parent.relative_to(path)) for each in found[:5])
    raise InputError(
        f"{path.name} holds {len(found)} reports ({names})" if found else f"{path.name} holds no {REPORT_FILE}",
        expected="One study's report is exported at a time",
        todo="Name its folder" if found else "Name a folder that medvl study has written",
    )


def _open(order: Order) -> _Case:
    report = find_report(order.report)
    document = read_document(report)
    beside = report.parent / REVIEW_FILE
    review = order.review or (beside if beside.exists() else None)
    reviewed = apply_review(document, None if review is None else read_review(review))
    return _Case(reviewed, report.parent, order.output or report.parent / EXPORT_FOLDER, order.source)


@contextmanager
def _libraries(form: Format) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("highdicom", "fhir"):
            raise
        raise SettingsError(
            f"{error.name} is not installed, which {form} is written with", todo='Run pip install "medvl[export]"'
        ) from error


# --- one format each ---------------------------------------------------------------------------------------------


def _structured_report(case: _Case) -> Iterator[Path]:
    from medvl.export.structured import structured_report

    yield _write_dicom(case.output / "findings-sr.dcm", structured_report(case.reviewed, case.study()))


def _key_images(case: _Case) -> Iterator[Path]:
    from medvl.export.key_images import key_images

    folder, written = case.output / "key-images", set[str]()
    for name, image in key_images(case.reviewed, case.study()):
        written.add(name)
        yield _write_dicom(folder / name, image)
    for stale in folder.glob("finding-*.dcm"):  # of an export before the review
        if stale.name not in written:
            stale.unlink()


def _fhir(case: _Case) -> Iterator[Path]:
    from medvl.export.fhir import fhir_bundle

    yield _write(case.output / "findings-fhir.json", fhir_bundle(case.reviewed))


def _pdf(case: _Case) -> Iterator[Path]:
    from medvl.export.printed import printed_page

    yield _write(case.output / "report.pdf", printed_page(case.reviewed, case.folder, case.output))


def _csv(case: _Case) -> Iterator[Path]:
    from medvl.export.table import findings_table

    yield _write(case.output / "findings.csv", findings_table(case.reviewed))


_WRITERS: dict[Format, Callable[[_Case], Iterator[Path]]] = {
    "dicom-sr": _structured_report,
    "key-images": _key_images,
    "fhir": _fhir,
    "pdf": _pdf,
    "csv": _csv,
}


def _write_dicom(path: Path, dataset: Dataset) -> Path:
    from medvl.export.maker import discreet

    content = BytesIO()
    with discreet():
        dataset.save_as(content, enforce_file_format=True)
    return _write(path, content.getvalue())


def _write(path: Path, content: bytes) -> Path:
    write_private(path, content)
    return path
