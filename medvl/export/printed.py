"""Prints a report's page as PDF with a Chromium browser of this machine.

The page already is the printed report, rules for paper included; a library that draws PDF itself would draw another
one. Chromium, Chrome and Edge print it as a radiologist's own browser does, and one of them is nearly everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from medvl.errors import InputError, OutputError
from medvl.files import cannot_write, make_private_folder
from medvl.report.html import write_patient_page
from medvl.report.review import ReviewedReport
from medvl.report.schema import document_json
from medvl.report.write import REPORT_FILE
from medvl.text import clean_text

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
    "msedge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
LIMIT_S = 120
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-extensions",
    "--no-first-run",
    "--no-pdf-header-footer",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the page asks for nothing; nor may a browser that starts
)


def printed_page(reviewed: ReviewedReport, study_folder: Path, output: Path) -> bytes:
    """Print one study's report with its review.

    study_folder: holds the report's pictures. output: a folder to work in; some browsers may not read the system's
    temporary one. Raises InputError if there is no browser, OutputError if it prints nothing.
    """
    browser = find_browser()
    try:
        make_private_folder(output)
        with tempfile.TemporaryDirectory(prefix=".print-", dir=output) as name:
            folder = Path(name)
            page = _write_page(reviewed, study_folder, folder / "patient")
            return _print(browser, page, folder)
    except OSError as error:
        raise cannot_write(output, error) from error


def find_browser() -> str:
    """Return a Chromium browser's path. Raises InputError if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise InputError(
            "No Chromium, Chrome or Edge was found to print the page with",
            todo="Install one, or open the report's page in any browser and print it from there",
        )
    return found


def _write_page(reviewed: ReviewedReport, study_folder: Path, patient_folder: Path) -> Path:
    """Make the page of this study alone, as reviewed; pictures are linked, not copied."""
    own = patient_folder / "study"
    own.mkdir(parents=True)
    for entry in study_folder.iterdir():
        if entry.name != REPORT_FILE:
            (own / entry.name).symlink_to(entry.resolve())
    (own / REPORT_FILE).write_bytes(document_json(reviewed.document))
    return write_patient_page(patient_folder, deidentify=False)


def _print(browser: str, page: Path, folder: Path) -> bytes:
    pdf = folder / "report.pdf"
    # Chromium's sandbox does not start for root; the page runs no script but our own and has no network.
    sandbox = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    flags = (*_FLAGS, *sandbox, f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={pdf}")
    try:
        ended = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, timeout=LIMIT_S, check=False)
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    except subprocess.TimeoutExpired:
        said = [f"it was not done after {LIMIT_S} s"]
    if not pdf.is_file():
        why = clean_text(said[-1], 200) if said else "it gave no reason"
        raise OutputError(f"{Path(browser).name} printed nothing: {why}", todo="Print the page from a browser yourself")
    return pdf.read_bytes()
