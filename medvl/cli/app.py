"""The commands. Each builds settings, runs the pipeline and prints the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli import options as flags
from medvl.cli.console import Commands, Output, reported
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


@app.command()
def study(
    paths: flags.Paths,
    output: flags.OutputFolder = Path("reports"),
    model: flags.Model = flags.MODEL,
    precision: flags.PrecisionFlag = "auto",
    series: flags.SeriesFlag = ["auto"],  # noqa: B006  # typer reads the default and never changes it
    window: flags.WindowFlag = ["auto"],  # noqa: B006
    size: flags.SizeFlag = None,
    slab: flags.SlabFlag = None,
    chunk: flags.ChunkFlag = None,
    batch: flags.BatchFlag = None,
    memory: flags.MemoryFlag = None,
    prompt: flags.PromptFlag = None,
    language: flags.LanguageFlag = "en",
    temperature: flags.TemperatureFlag = 0.0,
    max_new_tokens: flags.NewTokensFlag = None,
    deidentify: Annotated[bool, typer.Option(help="Leave name, ID and exact dates out of the report.")] = False,
    force: Annotated[bool, typer.Option(help="Forget finished chunks and start over.")] = False,
    as_json: flags.JsonFlag = False,
    quiet: flags.QuietFlag = False,
    verbose: flags.VerboseFlag = False,
) -> None:
    """Read studies and write one HTML report per patient. Run again to resume."""
    said = Output(as_json, quiet, verbose)
    with reported(said, resumes=True):
        settings = flags.build_settings(
            output=output,
            model=model,
            precision=precision,
            series=tuple(series),
            windows=tuple(window),
            size_px=size,
            slab=slab,
            chunk=chunk,
            batch=batch,
            memory=memory,
            prompt=prompt,
            language=language,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            deidentify=deidentify,
            force=force,
        )
        _read_studies(paths, settings, said)


@app.command()
def inspect(
    paths: flags.Paths,
    series: flags.SeriesFlag = ["auto"],  # noqa: B006
    as_json: flags.JsonFlag = False,
    quiet: flags.QuietFlag = False,
    verbose: flags.VerboseFlag = False,
) -> None:
    """Show what is in there, what would be read, and why the rest would not. Reads headers only."""
    said = Output(as_json, quiet, verbose)
    with reported(said):
        from medvl.cli.listing import inspect_paths

        inspect_paths(paths, tuple(series), said)


@app.command()
def plan(
    paths: flags.Paths,
    model: flags.Model = flags.MODEL,
    precision: flags.PrecisionFlag = "auto",
    series: flags.SeriesFlag = ["auto"],  # noqa: B006
    window: flags.WindowFlag = ["auto"],  # noqa: B006
    size: flags.SizeFlag = None,
    slab: flags.SlabFlag = None,
    chunk: flags.ChunkFlag = None,
    batch: flags.BatchFlag = None,
    memory: flags.MemoryFlag = None,
    prompt: flags.PromptFlag = None,
    language: flags.LanguageFlag = "en",
    max_new_tokens: flags.NewTokensFlag = None,
    as_json: flags.JsonFlag = False,
    quiet: flags.QuietFlag = False,
    verbose: flags.VerboseFlag = False,
) -> None:
    """Show slices, chunks, tokens, predicted memory and time. Loads no model."""
    said = Output(as_json, quiet, verbose)
    with reported(said):
        from medvl.cli.listing import plan_paths

        settings = flags.build_settings(
            model=model,
            precision=precision,
            series=tuple(series),
            windows=tuple(window),
            size_px=size,
            slab=slab,
            chunk=chunk,
            batch=batch,
            memory=memory,
            prompt=prompt,
            language=language,
            max_new_tokens=max_new_tokens,
        )
        plan_paths(paths, settings, said)


@app.command()
def demo(
    output: flags.OutputFolder = Path("reports"),
    force: Annotated[bool, typer.Option(help="Forget finished chunks and start over.")] = False,
    as_json: flags.JsonFlag = False,
    quiet: flags.QuietFlag = False,
    verbose: flags.VerboseFlag = False,
) -> None:
    """Read the bundled phantom study with the bundled demo model: any machine, offline."""
    said = Output(as_json, quiet, verbose)
    with reported(said, resumes=True):
        from medvl.bundled import bundled_path

        settings = flags.build_settings(output=output, model="demo", force=force)
        _read_studies([bundled_path("sample_data") / "chest_ct"], settings, said)


@app.command()
def evaluate(
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
    model: flags.Model = flags.MODEL,
    precision: flags.PrecisionFlag = "auto",
    window: flags.WindowFlag = ["auto"],  # noqa: B006
    size: flags.SizeFlag = None,
    slab: flags.SlabFlag = None,
    chunk: flags.ChunkFlag = None,
    batch: flags.BatchFlag = None,
    memory: flags.MemoryFlag = None,
    prompt: flags.PromptFlag = None,
    as_json: flags.JsonFlag = False,
    quiet: flags.QuietFlag = False,
    verbose: flags.VerboseFlag = False,
) -> None:
    """Measure a model on phantoms with known truth, or score reports against a truth of your own."""
    said = Output(as_json, quiet, verbose)
    with reported(said, resumes=output is not None):
        from medvl.cli import scoring

        if truth or reports:
            scoring.score_reports(truth or [], reports or [], said)
            return
        settings = flags.build_settings(
            model=model,
            precision=precision,
            windows=tuple(window),
            size_px=size,
            slab=slab,
            chunk=chunk,
            batch=batch,
            memory=memory,
            prompt=prompt,
        )
        wish = scoring.Wish(cases, seed, counterfactuals, jobs)
        scoring.measure(wish, settings, output, said)


def _read_studies(paths: list[Path], settings: Settings, said: Output) -> None:
    from medvl.cli.listing import print_outcome
    from medvl.pipeline.run import StudyRun
    from medvl.progress import make_watcher

    watcher = make_watcher(said.console(), quiet=said.quiet)
    try:
        outcome = StudyRun(settings, flags.model_store(), watcher=watcher).read(paths)
    finally:
        watcher.close()
    print_outcome(outcome, said)
    if outcome.exit_status:
        raise typer.Exit(outcome.exit_status)


def _register_more() -> None:
    from medvl.cli import tools

    app.command("doctor")(tools.doctor)
    app.add_typer(tools.prompts_app, name="prompts")
    app.add_typer(tools.models_app, name="models")


_register_more()
