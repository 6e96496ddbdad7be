"""Runs an evaluation and prints it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import typer

from medvl.cli.console import Output
from medvl.cli.options import model_store
from medvl.evaluate.harness import Evaluation, Wish, evaluate_phantoms, evaluate_reports
from medvl.evaluate.table import print_evaluation
from medvl.files import write_private
from medvl.progress import make_watcher
from medvl.settings import Settings

EVALUATION_FILE = "evaluation.json"


def measure(wish: Wish, settings: Settings, output: Path | None, said: Output) -> None:
    """Evaluate on phantoms; their studies and reports stay only where an output folder is named."""
    with _folder(output) as folder:
        watcher = make_watcher(said.console(), quiet=said.quiet)
        try:
            evaluation = evaluate_phantoms(wish, replace(settings, output=folder), model_store(), watcher=watcher)
        finally:
            watcher.close()
        if output is not None:
            content = json.dumps(asdict(evaluation), indent=1, ensure_ascii=False)
            write_private(output / EVALUATION_FILE, f"{content}\n".encode())
    _show(evaluation, said)


def score_reports(truths: Sequence[Path], reports: Sequence[Path], said: Output) -> None:
    """Score reports that exist already. Raises InputError."""
    _show(evaluate_reports(truths, reports), said)


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="medvl-evaluate-") as name:
        yield Path(name)


def _show(evaluation: Evaluation, said: Output) -> None:
    said.document(asdict(evaluation))
    if not said.as_json and not said.quiet:
        print_evaluation(evaluation, said.console(stderr=False), verbose=said.verbose)
    if evaluation.exit_status:
        raise typer.Exit(evaluation.exit_status)


__all__ = ["Wish", "measure", "score_reports"]
