"""The command line. Each module of this package adds one group of commands; heavy libraries are imported when used."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from slipway.cli import data, mirror, models, monitors, platform, releases, secrets, serving
from slipway.environment import VARIABLE
from slipway.errors import SlipwayError, of_system

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def choose_environment(
    env: Annotated[
        str, typer.Option("--env", help="Environment: a name or the path of its file.", envvar=VARIABLE)
    ] = "local",
) -> None:
    """Launch models, watch them, replace them, and haul them back when they misbehave."""
    os.environ[VARIABLE] = env


for group in (platform, models, releases, serving, monitors, data, secrets, mirror):
    group.register(app)


def main() -> None:
    """Run the command line; exit 0, 1 (failed) or 2 (wrong use), never with a traceback."""
    try:
        app(standalone_mode=True)
    except (SlipwayError, OSError) as error:
        told = of_system(error) if isinstance(error, OSError) else error
        print(told, file=sys.stderr)  # noqa: T201 -- the one place where an error meets the user
        sys.exit(told.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
