"""The commands. Each builds settings, runs the pipeline and prints the outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli import exporting, tools
from medvl.cli.console import Commands, Output, command, reported
from medvl.cli.options import READING, SERVER, STATED, Paths, model_store
from medvl.settings import Settings

app = typer.Typer(
    cls=Commands,
    help="Read a radiology study with a local vision-language model and draft a report. "
    "A research aid, never a diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from medvl import __version__

        typer.echo(f"medvl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@command(
    app,
    "study",
    asks=(
        "output",
        "series",
        *READING,
        *SERVER,
        "language",
        "temperature",
        "max_new_tokens",
        "strict",
        *STATED,
        "guidelines",
        "deidentify",
        "cache",
        "force",
    ),
    resumes=True,
)
def study(said: Output, settings: Settings, paths: Paths) -> None:
    """Read studies and write one HTML report per patient. Run again to resume."""
    _read_studies(paths, settings, said)


@command(app, "inspect", asks=("series", "strict", "cache"))
def inspect(said: Output, settings: Settings, paths: Paths) -> None:
    """Judge every stack, show what would be read, and why the rest would not. Reads headers only."""
    from medvl.cli.listing import inspect_paths

    inspect_paths(paths, settings, said)


@command(app, "plan", asks=("series", *READING, "language", "max_new_tokens", "strict", "cache"))
def plan(said: Output, settings: Settings, paths: Paths) -> None:
    """Show slices, chunks, tokens, predicted memory and time. Loads no model."""
    from medvl.cli.listing import plan_paths

    plan_paths(paths, settings, said)


@command(app, "demo", asks=("output", "force"), resumes=True)
def demo(said: Output, settings: Settings) -> None:
    """Read the bundled phantom study with the bundled demo model: any machine, offline."""
    from medvl.bundled import bundled_path

    _read_studies([bundled_path("sample_data") / "chest_ct"], replace(settings, model="demo"), said)


@command(app, "evaluate", asks=(*READING, *SERVER))
def evaluate(
    said: Output,
    settings: Settings,
    reports: Annotated[
        list[Path] | None, typer.Argument(help="With --truth: report.json files to score.", show_default=False)
    ] = None,
    truth: Annotated[
        list[Path] | None,
        typer.Option(help="Truth of one of the reports; repeat for each. Nothing is read then.", show_default=False),
    ] = None,
    cases: Annotated[int, typer.Option(help="Phantom studies to make.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Other seeds make other studies.", min=0)] = 1,
    counterfactuals: Annotated[bool, typer.Option(help="Read mirrored, blank and shuffled copies too.")] = True,
    jobs: Annotated[int, typer.Option(help="Processes that write studies.", min=1)] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Keep studies and reports here and resume. [default: keep nothing]"),
    ] = None,
) -> None:
    """Measure a model on phantoms with known truth, or score reports against a truth of your own."""
    with reported(said, resumes=output is not None):
        from medvl.cli import scoring

        if truth or reports:
            scoring.score_reports(truth or [], reports or [], said)
        else:
            scoring.measure(scoring.Wish(cases, seed, counterfactuals, jobs), settings, output, said)


def _read_studies(paths: list[Path], settings: Settings, said: Output) -> None:
    from medvl.cli.listing import header_cache, print_outcome
    from medvl.pipeline.run import StudyRun
    from medvl.progress import make_watcher

    watcher = make_watcher(said.console(), quiet=said.quiet)
    try:
        outcome = StudyRun(settings, model_store(), watcher=watcher, cache=header_cache(settings)).read(paths)
    finally:
        watcher.close()
    print_outcome(outcome, said)
    if outcome.exit_status:
        raise typer.Exit(outcome.exit_status)


tools.register(app)
exporting.register(app)
