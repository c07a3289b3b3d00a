"""Commands for the platform's processes and settings."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from slipway.cli.output import Json, print_facts, print_json
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, Problem, Unknown

config = typer.Typer(no_args_is_help=True, help="Check, show and explain environment files.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    for command in (up, preview, down, status, logs, doctor):
        app.command()(command)
    app.add_typer(config, name="config")


def up(
    retain: Annotated[bool, typer.Option(help="Leave a start that failed as it is, to look at it.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="On Kubernetes: do not ask whether it is the right cluster.")
    ] = False,
) -> None:
    """Start the platform and wait until it is ready; a second time changes nothing."""
    from slipway.endpoints import dashboard_url
    from slipway.gateway_client import request_code
    from slipway.sessions import CODE_LIFETIME
    from slipway.targets.local import lifecycle, status

    environment = open_environment()
    if environment.settings.target == "kubernetes":
        if retain:
            raise InvalidInput(Problem("--retain", "on Kubernetes what was made stays anyway", "leave it out"))
        _run_infrastructure(environment, "up", *(["--yes"] if yes else []))
    changed = lifecycle.up(
        environment,
        say=lambda text: typer.echo(f"  {text}"),
        report=lambda name, seconds: typer.echo(f"  ready after {seconds:5.1f} s: {name}"),
        retain=retain,
    )
    name = environment.settings.name
    typer.echo(f"{name} is up." if changed else f"{name} is already up; nothing was changed.")
    for page, url in status.read_urls(environment).items():
        typer.echo(f"  {page:<12} {url}")
    typer.echo(f"  {'tokens':<12} {environment.state.secrets / 'tokens'}")
    if changed:
        address = f"{dashboard_url(environment, 'portal')}/login?code={request_code(environment, 'read')}"
        typer.echo(f"  {'log in':<12} {address}")
        typer.echo(f"  {'':<12} (once, within {CODE_LIFETIME / 60:.0f} minutes; `slipway token login` makes another)")
    typer.echo("next: slipway status, or the whole story on real flights: make demo")


def preview() -> None:
    """On Kubernetes: what `up` would change, and what the policies say; exit 1 when they object. Changes nothing."""
    environment = open_environment()
    if environment.settings.target != "kubernetes":
        raise InvalidInput(Problem("preview", f"{environment.settings.name} is not on Kubernetes", "slipway up"))
    _run_infrastructure(environment, "preview")


def down(
    delete_data: Annotated[bool, typer.Option("--delete-data", help="Delete everything that was stored, too.")] = False,
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="On Kubernetes: leave volumes and databases; here they always stay.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Stop every process, last started first; the data stays unless told otherwise."""
    from slipway.targets.local import deletion, lifecycle

    environment = open_environment()
    if delete_data and keep_data:
        raise InvalidInput(Problem("--delete-data, --keep-data", "say the opposite of one another", "name one of them"))
    if environment.settings.target == "kubernetes":
        _run_infrastructure(environment, "down", *(["--yes"] if yes else []), *(["--keep-data"] if keep_data else []))
    name, folder = environment.settings.name, environment.state.root
    if delete_data:
        deletion.check_deletable(environment)
        if not yes:
            typer.confirm(f"Delete all data of {name} in {folder}: models, features, predictions, labels?", abort=True)
    ran = lifecycle.down(environment, say=lambda text: typer.echo(f"  {text}"))
    typer.echo(f"{name} is down." if ran else f"{name} was not running.")
    if delete_data:
        deletion.delete_data(environment)
        typer.echo(f"{folder} is deleted; next: slipway up")
    else:
        typer.echo(f"The data is in {folder}; next: slipway up")


def status(as_json: Json = False) -> None:
    """Processes: readiness, process id, memory, uptime, restarts; and the addresses. Exit 1 unless all are ready."""
    from slipway.targets.local.status import read_processes, read_urls

    environment = open_environment()
    if environment.settings.target == "kubernetes":
        _run_infrastructure(environment, "status", *(["--json"] if as_json else []))
    processes = read_processes(environment)
    ready = all(process.state == "ready" for process in processes)
    rows = [dataclasses.asdict(process) for process in processes]
    urls = read_urls(environment)
    if as_json:
        print_json({"environment": environment.settings.name, "ready": ready, "processes": rows, "urls": urls})
    else:
        print_facts(f"environment {environment.settings.name}", [_for_people(row) for row in rows], as_json=False)
        typer.echo(f"memory of all: {sum(process.memory_mib or 0 for process in processes)} MiB")
        for page, url in urls.items():
            typer.echo(f"  {page:<12} {url}")
        if not ready:
            typer.echo("next: slipway up")
    if not ready:
        raise typer.Exit(1)


def _run_infrastructure(environment: Environment, command: str, *options: str) -> NoReturn:
    """Become `python -m infra`: a program of its own, which this package never imports. Ctrl-C reaches it alone."""
    if not all(importlib.util.find_spec(name) for name in ("infra", "pulumi")):
        raise InvalidInput(
            Problem("infra", "the infrastructure program is not installed", "use a clone: `make up ENV=...`")
        )
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "infra", command, "--env", str(environment.file), *options])  # noqa: S606


def _for_people(row: dict[str, object]) -> dict[str, object]:
    seconds = row["uptime_s"]
    uptime = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}" if isinstance(seconds, int) else None
    return {
        "process": row["process"],
        "state": row["state"],
        "pid": row["pid"],
        "memory (MiB)": row["memory_mib"],
        "uptime": uptime,
        "restarts": row["restarts"],
    }


def logs(
    process: Annotated[
        str | None, typer.Argument(help="A process as `slipway status` names it; all when left out.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines to show.")] = 20,
) -> None:
    """The last lines of the logs."""
    from slipway.targets.local import tails

    environment = open_environment()
    known = tails.list_logs(environment)
    if process and process not in known:
        raise Unknown("process", process, known)
    names = [process] if process else known
    prefix = {name: "" if process else f"{name} | " for name in names}
    for name in names:
        for line in tails.read_tail(environment, name, lines):
            typer.echo(prefix[name] + line)
    if follow:
        for name, line in tails.follow(environment, names):
            typer.echo(prefix[name] + line)


def doctor(as_json: Json = False) -> None:
    """Check what the platform needs from this machine and its cluster; exit 1 when something is missing."""
    environment = open_environment()
    if environment.settings.target == "kubernetes":
        from slipway.targets.kubernetes.doctor import examine
    else:
        from slipway.targets.local.doctor import examine

    findings = examine(environment)
    failures = [finding for finding in findings if not finding.ok]
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:<26} {finding.found}")
            if not finding.ok:
                typer.echo(f"      {'remedy:':<26} {finding.remedy}")
        typer.echo(f"{len(failures)} of {len(findings)} checks failed." if failures else "All is well.")
    if failures:
        raise typer.Exit(1)


@config.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Environment files; the one in force when left out.")
    ] = None,
) -> None:
    """Check environment files; every mistake of every file is shown."""
    names: list[str | None] = [str(file) if file.suffix else f"./{file}" for file in files or []]
    problems: list[Problem] = []
    for name in names or [None]:
        try:
            opened = open_environment(name)
            typer.echo(f"{opened.file}: good")
        except InvalidInput as error:
            prefix = f"{name}: " if name else ""
            problems.extend(Problem(f"{prefix}{item.where}", item.message, item.hint) for item in error.problems)
    if problems:
        raise InvalidInput(problems)


@config.command()
def show(as_json: Json = False) -> None:
    """The settings in force, defaults included."""
    from slipway.settings_reference import list_in_force

    settings = open_environment().settings
    if as_json:
        print_json(settings.model_dump(mode="json"))
        return
    for path, value in list_in_force(settings):
        typer.echo(f"{path} = {value}")


@config.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/settings.md.")] = False,
) -> None:
    """What an environment file may say: JSON schema, or the page of the manual."""
    from slipway.settings import Settings
    from slipway.settings_reference import render_markdown

    if markdown:
        typer.echo(render_markdown(), nl=False)
    else:
        print_json(Settings.model_json_schema())
