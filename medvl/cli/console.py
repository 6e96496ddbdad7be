"""What every command shares: where output goes, and how an error ends the process."""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from medvl.cli.options import build_settings, shared_flags
from medvl.errors import MedvlError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of click, or of typer's own copy of it


_OUTPUT_FLAGS = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
    for name, option in (
        ("as_json", typer.Option("--json", help="Print one JSON document on stdout.")),
        ("quiet", typer.Option("--quiet", "-q", help="Print nothing but errors.")),
        ("verbose", typer.Option("--verbose", "-v", help="Print more detail.")),
    )
]


@dataclass(frozen=True, slots=True)
class Output:
    """How much a command says, and in which form."""

    as_json: bool
    quiet: bool
    verbose: bool

    def console(self, *, stderr: bool = True) -> Console:
        """Return the terminal; results go to stdout, everything else to stderr."""
        from rich.console import Console

        return Console(stderr=stderr, highlight=False)

    def say(self, text: str) -> None:
        """Print a line of the result, unless the result is JSON or nothing is to be said."""
        if not self.as_json and not self.quiet:
            typer.echo(text)

    def document(self, content: Any) -> None:
        """Print the result as one JSON document, if that was asked for."""
        if self.as_json:
            typer.echo(json.dumps(content, indent=2, ensure_ascii=False, default=str))


class Commands(TyperGroup):
    """The commands; a mistake in the flags is told as JSON, too, where JSON was asked for."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            asked = Output(as_json="--json" in self._words, quiet=False, verbose=False)
            message = getattr(error, "format_message", error.__str__)()
            asked.document({"error": message, "exit_status": SettingsError.exit_status})
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the flags before the command's name."""
        self._words = tuple(args)
        return super().parse_args(ctx, args)


def command(
    app: typer.Typer, name: str, *, asks: Sequence[str] = (), resumes: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command that takes --json, --quiet and --verbose and ends with medvl's exit statuses.

    The function is given an Output first and, where `asks` names shared flags, the Settings made of them second; its
    other parameters are the command's own. resumes: run again, it goes on where it stopped.
    """

    def register(run: Callable[..., None]) -> Callable[..., None]:
        given_first = 2 if asks else 1
        own = list(inspect.signature(run, eval_str=True).parameters.values())[given_first:]
        flags = shared_flags(asks)

        def invoke(**given: Any) -> None:
            said = Output(given.pop("as_json"), given.pop("quiet"), given.pop("verbose"))
            with reported(said, resumes=resumes):
                values = {flag.name: given.pop(flag.name) for flag in flags}
                run(said, *([build_settings(values)] if asks else []), **given)

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + flags + _OUTPUT_FLAGS
        invoke.__doc__ = run.__doc__
        invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        invoke.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name)(invoke)
        return run

    return register


@contextmanager
def reported(output: Output, *, resumes: bool = False) -> Iterator[None]:
    """Turn an error the user can act on into a sentence and its exit status; an interrupt into 130.

    resumes: the command goes on where it stopped when run again. Anything else that is raised is a bug of ours and
    keeps its traceback.
    """
    with _terminated_like_interrupted():
        try:
            yield
        except MedvlError as error:
            fail(output, str(error), error.exit_status)
        except KeyboardInterrupt:
            todo = " Finished chunks are kept; run the same command again to resume." if resumes else ""
            fail(output, f"Interrupted.{todo}", INTERRUPTED)


def fail(output: Output, message: str, status: int, found: Mapping[str, Any] | None = None) -> NoReturn:
    """Say what went wrong and end with that exit status. found: what the command can tell all the same."""
    output.document({**(found or {}), "error": message, "exit_status": status})
    typer.echo(f"medvl: {message}", err=True)
    raise typer.Exit(status)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A scheduler's SIGTERM ends a run as Ctrl-C does: cleanly."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
