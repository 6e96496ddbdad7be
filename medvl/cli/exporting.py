"""The command that hands a report on to other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.console import Output, command
from medvl.cli.options import one_of


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app, "export")(export)


def export(
    said: Output,
    report: Annotated[
        Path, typer.Argument(help="A report.json, or a folder that holds one study's report.", show_default=False)
    ],
    form: Annotated[
        list[str],
        typer.Option("--format", "-f", help="dicom-sr, key-images, fhir, pdf or csv; repeat.", show_default=False),
    ],
    source: Annotated[
        Path | None,
        typer.Option(help="The study's DICOM files; dicom-sr and key-images need them.", show_default=False),
    ] = None,
    review: Annotated[
        Path | None,
        typer.Option(help="A review saved from the page. [default: review.json beside the report]", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write to. [default: export/ beside the report]"),
    ] = None,
) -> None:
    """Hand one report on: DICOM SR and key images for a PACS, FHIR, PDF, or a table of findings."""
    from medvl.export.deliver import FORMATS, Order, export_report

    for each in form:
        one_of("format", each, FORMATS)
    order = Order(report, source, review, output)
    written = {each: export_report(order, each) for each in FORMATS if each in form}
    said.document({each: [str(path) for path in paths] for each, paths in written.items()})
    for each, paths in written.items():
        said.say("\n".join(map(str, paths)) if paths else f"{each}: no finding, so nothing to write")
