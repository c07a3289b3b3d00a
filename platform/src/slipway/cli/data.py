"""Commands for replay, backup and restore."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from slipway.cli.operator import open_machine
from slipway.cli.output import Json, print_json
from slipway.environment import VARIABLE
from slipway.errors import InvalidInput, Problem


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(replay)
    app.command()(backup)
    app.command()(restore)


def replay(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model whose recorded events are replayed.")],
    start: Annotated[str, typer.Option("--from", help="First event day, UTC: 2013-03-01.")],
    end: Annotated[str, typer.Option("--to", help="The day after the last one.")],
) -> None:
    """Let recorded days pass: publish events, ask for predictions through the gateway, deliver labels.

    Further options go to the model's own replay: --sample, --speed, --step; `python -m pipelines.MODEL.replay --help`
    lists them.
    """
    from slipway.contract import load_contract
    from slipway.settings import REPOSITORY

    load_contract(model)  # an unknown model ends here, with the names of those that exist
    if not any((REPOSITORY / "pipelines" / model / name).exists() for name in ("replay.py", "replay/__main__.py")):
        raise InvalidInput(Problem("model", f"{model!r} has no replay", f"write pipelines/{model}/replay.py"))
    environment = open_machine()
    command = [sys.executable, "-m", f"pipelines.{model}.replay", "--from", start, "--to", end, *context.args]
    variables = {**os.environ, VARIABLE: str(environment.file.resolve())}
    raise typer.Exit(subprocess.run(command, env=variables, cwd=REPOSITORY, check=False).returncode)


def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write, for example slipway.tar.gz; must not exist.")],
    as_json: Json = False,
) -> None:
    """Write everything but secrets and logs into one archive, while the platform runs or not."""
    from slipway.backup import write_backup

    environment = open_machine()
    written = write_backup(environment, file, report=_progress("archived", as_json))
    if as_json:
        print_json(dataclasses.asdict(written))
        return
    typer.echo(f"{written.file}: {written.files} files, {written.size >> 10} KiB, signed by {written.signer}")
    typer.echo(f"next, elsewhere: slipway --env NAME restore {written.file} --signer {written.signer}")


def restore(
    file: Annotated[Path, typer.Argument(help="What `slipway backup` wrote.")],
    signer: Annotated[
        str | None, typer.Option(help="Fingerprint that `slipway backup` printed; others are refused.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring a backup back into an environment that holds no data; new tokens and keys are made by `slipway up`."""
    from slipway.restore import restore_backup

    environment = open_machine()
    restored = restore_backup(environment, file, signer=signer, report=_progress("unpacked", as_json))
    if as_json:
        print_json(dataclasses.asdict(restored))
        return
    origin = f"{restored.environment}, {restored.made:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"{environment.state.root}: {restored.files} files of {origin}")
    typer.echo(f"signed by {restored.signer}: bundles of that key are trusted here from now on")
    typer.echo("next: slipway up")


def _progress(verb: str, as_json: bool) -> Callable[[int, int], None]:
    """A line that counts on a terminal; silent otherwise."""
    if as_json or not sys.stderr.isatty():
        return lambda files, size: None

    def show(files: int, size: int) -> None:
        if files % 100 == 0:
            typer.echo(f"\r{verb} {files} files, {size >> 20} MiB", nl=False, err=True)

    return show
