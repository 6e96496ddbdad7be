"""The small commands: what this machine can do, the prompts, the models on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.console import Output, command, fail
from medvl.cli.options import header_store, model_store
from medvl.errors import ModelError, SettingsError
from medvl.settings import Settings

prompts_app = typer.Typer(help="List, show and check prompt templates.", no_args_is_help=True, rich_markup_mode=None)
models_app = typer.Typer(
    help="List, pull, verify and remove models on disk.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(help="Model id, such as Qwen/Qwen3-VL-8B-Instruct.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the small commands to the command line."""
    command(app, "doctor", asks=("model",))(doctor)
    app.add_typer(prompts_app, name="prompts")
    app.add_typer(models_app, name="models")


def doctor(said: Output, settings: Settings) -> None:
    """Check Python, GPU, memory, decoders and model, and say what to do about each."""
    from medvl.cli.checks import check_machine

    checks = check_machine(settings.model, model_store(), header_store())
    said.document({"checks": [asdict(check) for check in checks]})
    for check in checks:
        said.say(f"{'ok     ' if check.good else 'PROBLEM'} {check.name}: {check.found}")
        if check.todo:
            said.say(f"        {check.todo}")
    if not all(check.good for check in checks):
        raise typer.Exit(ModelError.exit_status)


@command(prompts_app, "list")
def list_prompts(said: Output) -> None:
    """List the prompts that come with medvl."""
    from medvl.prompts import load_prompts

    found = load_prompts()
    said.document([{**asdict(prompt), "digest": prompt.digest} for prompt in found])
    for prompt in found:
        scope = ", ".join((*prompt.modality, *(prompt.windows and (f"windows {'/'.join(prompt.windows)}",))))
        said.say(f"{prompt.id:16} {prompt.language}  {prompt.task:10} {scope}")


@command(prompts_app, "show", asks=("language",))
def show_prompt(
    said: Output,
    settings: Settings,
    prompt: Annotated[str, typer.Argument(help="Prompt id or file.", show_default=False)],
) -> None:
    """Print one prompt template."""
    from medvl.prompts import MARKER, load_prompt

    found = load_prompt(prompt, settings.language)
    said.document({**asdict(found), "digest": found.digest})
    said.say(f"{found.id} ({found.language}, {found.task}), {found.digest}\n")
    said.say(found.instruction + (f"\n\n{MARKER}\n\n{found.query}" if found.query else ""))


@command(prompts_app, "check")
def check_prompts(
    said: Output,
    files: Annotated[list[Path], typer.Argument(help="Prompt files.", show_default=False)],
) -> None:
    """Check prompt files of your own: front matter, placeholders, order."""
    from medvl.prompts import check_prompt

    checked = [check_prompt(path) for path in files]
    said.document([{"file": prompt.file, "digest": prompt.digest} for prompt in checked])
    for prompt in checked:
        said.say(f"{prompt.file}: good, {prompt.digest}")


@command(models_app, "list")
def list_stored(said: Output) -> None:
    """List the models on this machine."""
    from medvl.reader.weights import list_models

    found = list_models(model_store())
    said.document([asdict(each) for each in found])
    for each in found:
        state = f"incomplete: {', '.join(each.missing)}" if each.missing else "complete"
        said.say(f"{each.location.name}  {each.size_bytes / 1e9:.2f} GB  {each.location.origin}  {state}")
    if not found:
        said.say("No model is stored here; `medvl models pull Qwen/Qwen3-VL-8B-Instruct` fetches one")


@command(models_app, "pull", resumes=True)
def pull(
    said: Output,
    name: Name,
    source: Annotated[
        Path | None, typer.Option("--from", help="Copy from this folder instead of the hub.", show_default=False)
    ] = None,
) -> None:
    """Fetch a model from the hub, or copy it from a folder."""
    from medvl.reader.weights import pull_model

    location = pull_model(name, model_store(), source)
    said.document(asdict(location))
    said.say(f"{location.name} is in {location.folder}")


@command(models_app, "verify")
def verify(said: Output, name: Name) -> None:
    """Check every file of a model: size, hash, form."""
    from medvl.reader.weights import verify_model

    checks = verify_model(name, model_store())
    for check in checks:
        said.say(f"{check.problem or 'good'}  {check.name}  {check.size_bytes} bytes, against {check.against}")
    document = {"model": name, "files": [asdict(check) for check in checks]}
    if any(check.problem for check in checks):
        fail(said, f"{name} is damaged; pull it again", ModelError.exit_status, document)
    said.document(document)


@command(models_app, "rm")
def remove(
    said: Output,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from this machine."""
    from medvl.reader.weights import remove_model

    if not yes and (said.as_json or not _agreed(name)):
        raise SettingsError(f"{name} was not deleted", todo="Answer y, or give --yes")
    freed = remove_model(name, model_store())
    said.document({"removed": name, "bytes": freed})
    said.say(f"{name} removed, {freed / 1e9:.2f} GB freed")


def _agreed(name: str) -> bool:
    try:
        return typer.confirm(f"Delete {name} from this machine?", err=True)
    except typer.Abort:  # nobody there to answer
        return False
