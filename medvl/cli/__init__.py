"""The command line: flags to settings, progress, errors to sentences and exit statuses. Nothing else.

Everything heavy is imported inside the command that needs it, so that `medvl --help` is instant.
"""

from __future__ import annotations

from medvl.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; the process ends with medvl's exit status."""
    app(prog_name="medvl")


if __name__ == "__main__":
    main()
