"""What every command shares: where output goes, and how an error ends the process."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from medvl.errors import MedvlError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130


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


def fail(output: Output, message: str, status: int) -> NoReturn:
    """Say what went wrong and end with that exit status."""
    output.document({"error": message, "exit_status": status})
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


def stdout_is_terminal() -> bool:
    """Tell whether a person is watching."""
    return sys.stdout.isatty()
