"""Commands for models, their training, and pipelines."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli.operator import name_operator, open_platform
from slipway.cli.output import Json, print_facts, print_json
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady, Problem, Refused, SlipwayError, Unknown

if TYPE_CHECKING:
    from slipway.ledger.schema import RunRow

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]

model_app = typer.Typer(no_args_is_help=True, help="List, show and archive models.")
pipeline_app = typer.Typer(no_args_is_help=True, help="The pipelines as files for a cluster.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(model_app, name="model")
    app.command("train")(train)
    app.add_typer(pipeline_app, name="pipeline")


@model_app.command("list")
def list_models(as_json: Json = False) -> None:
    """Every onboarded model: who owns it, its champion, its newest version."""
    from slipway import contract
    from slipway.ledger import open_ledger, releases, versions

    environment = open_platform()
    rows = []
    with open_ledger(environment).read() as session:
        for name in contract.list_models():
            release = releases.read(session, name)
            known = versions.list_all(session, name)
            rows.append(
                {
                    "model": name,
                    "team": contract.load_contract(name).owner.team,
                    "champion": release.champion if release else None,
                    "versions": len(known),
                    "state": _state_of(release),
                }
            )
    print_facts("models", rows, as_json)


@model_app.command("show")
def show_model(model: Model, as_json: Json = False) -> None:
    """The contract of a model, its versions with what the gate found, and its last runs."""
    from slipway.contract import load_contract
    from slipway.ledger import open_ledger, releases, runs, versions

    environment = open_platform()
    contract = load_contract(model)
    with open_ledger(environment).read() as session:
        release = releases.read(session, model)
        known = [
            {
                "version": row.version,
                "state": row.state,
                "auc": _rounded(row.gate.get("value")),
                "against": row.gate.get("champion"),
                "gate": row.gate.get("verdict"),
                "reasons": "; ".join(row.gate.get("reasons", [])),
                "trained_until": str((row.gate.get("training") or {}).get("end", ""))[:10],
                "digest": row.digest[:12],
            }
            for row in versions.list_all(session, model)
        ]
        ran = [_run_facts(row) for row in runs.list_all(session, model)]
    if as_json:
        document = contract.model_dump(mode="json")
        print_json({"contract": document, "state": _state_of(release), "versions": known, "runs": ran})
        return
    features = f"{contract.features.service}, {len(contract.request)} request fields"
    facts = {
        "model": model,
        "state": _state_of(release),
        "champion": release.champion if release else None,
        "owner": f"{contract.owner.team} ({contract.owner.contact})",
        "features": features,
        "asks": contract.description,
    }
    print_facts(model, [{"fact": name, "value": value} for name, value in facts.items()], False)
    print_facts("versions", known, False)
    print_facts("last runs", [{k: v for k, v in row.items() if k != "outcome"} for row in ran[-10:]], False)


@model_app.command("archive")
def archive_model(
    model: Model,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded with your name.")],
    as_json: Json = False,
) -> None:
    """Take a model out of service: no traffic, no training, no monitors; its versions and its history stay."""
    from slipway.ledger import open_ledger, releases

    if not reason.strip():
        raise InvalidInput(Problem("--reason", "is empty", "say why: it is what the next person reads"))
    environment = open_platform()
    ledger = open_ledger(environment)
    with ledger.transaction() as session:
        if releases.read(session, model) is None:
            raise Unknown("model", model, [row.model for row in releases.list_all(session)])
        as_of = environment.clock.as_of()
        releases.archive(session, model, actor=name_operator(), reason=reason.strip(), as_of=as_of)
    if as_json:
        print_json({"model": model, "state": "archived"})
    else:
        typer.echo(f"{model} is archived; its versions stay in the registry")


def train(
    model: Model,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Train on what was known at this moment (UTC); default: now.")
    ] = None,
    contract: Annotated[
        Path | None, typer.Option("--contract", help="Another contract of the same model, for an experiment.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = True,
    as_json: Json = False,
) -> None:
    """Train a new version; exit 1 when validation or the gate refuses it, or when the run fails."""
    import uuid

    from slipway.cli.run_progress import follow_run
    from slipway.contract import load_contract
    from slipway.ledger import open_ledger, releases, runs

    environment = open_platform()
    load_contract(model)
    moment = read_moment(environment, as_of)
    options = {"contract": str(_checked(contract, model))} if contract else {}
    ledger = open_ledger(environment)
    user = name_operator()
    with ledger.transaction() as session:
        release = releases.read(session, model)
        if release is not None and release.archived:
            raise Refused(f"{model}: is archived")
        run = runs.submit(
            session,
            key=f"{model}-{moment:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
            model=model,
            reason=f"asked for by {user}",
            as_of=moment,
            options=options,
            actor=user,
        )
        number = run.id
    if not wait:
        if as_json:
            print_json({"run": number, "state": "waiting"})
        else:
            typer.echo(f"run {number} is waiting; see it with: slipway model show {model}")
        return
    ended = follow_run(environment, ledger, number, quiet=as_json)
    if as_json:
        print_json(_run_facts(ended))
    elif ended.state == "succeeded":
        typer.echo(f"{model} version {ended.version} passed the gate; next: slipway rollout show {model}")
    if ended.state != "succeeded":
        raise _failure_of(ended)


@pipeline_app.command("compile")
def compile_pipeline(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline: training.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file to write.")],
) -> None:
    """Write a pipeline as KFP YAML for a cluster, from the definition that runs here."""
    if pipeline != "training":
        raise Unknown("pipeline", pipeline, ["training"])
    if file.suffix not in (".yaml", ".yml") or not file.absolute().parent.is_dir():
        raise InvalidInput(Problem("FILE", f"{file}: is no YAML file in an existing folder", "training.yaml"))
    command = [sys.executable, "-m", "pipelines.compile", pipeline, str(file.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise SlipwayError(f"{file}: was not written: {done.stderr.strip().splitlines()[-1:]}")
    typer.echo(f"{file} is written; a KFP client submits it with the arguments `environment` and `run`")


def read_moment(environment: Environment, text: str | None) -> datetime:
    """`2013-03-01` or RFC 3339, UTC when no offset is given; None is the clock's as_of. Raises InvalidInput."""
    if text is None:
        return environment.clock.as_of()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        hint = "2013-03-01 or 2013-03-01T06:00:00Z"
        raise InvalidInput(Problem("--as-of", f"{text!r} is not a moment", hint)) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    try:
        now = environment.clock.as_of()
    except SlipwayError:
        return moment
    if moment > now:
        raise InvalidInput(Problem("--as-of", f"{text}: lies after event time {now.isoformat()}", "an earlier moment"))
    return moment


def _checked(file: Path, model: str) -> Path:
    """The contract file, absolute, read once so that its mistakes are told here. Raises InvalidInput."""
    from slipway.contract import read_contract

    if not file.is_file():
        raise InvalidInput(Problem("--contract", f"{file}: there is no such file"))
    named = read_contract(file).model
    if named != model:
        raise InvalidInput(Problem("--contract", f"{file}: is the contract of {named}, not of {model}"))
    return file.absolute()


def _failure_of(run: RunRow) -> SlipwayError:
    message = str(run.outcome.get("message") or "no reason was recorded")
    if run.state == "refused":
        return Refused(f"run {run.id}: refused at {run.step}: {message}")
    if run.state not in ("succeeded", "failed"):
        return NotReady(f"run {run.id}: still {run.state} at {run.step or 'its start'}", hint="slipway logs runner")
    if run.outcome.get("problems"):  # what was asked for cannot be: wrong use, in the step's own words
        return InvalidInput(Problem(f"run {run.id}", f"failed at {run.step or 'its start'}: {message}"))
    return SlipwayError(f"run {run.id}: failed at {run.step or 'its start'}: {message}", hint="slipway logs runner")


def _run_facts(run: RunRow) -> dict[str, Any]:
    return {
        "run": run.id,
        "state": run.state,
        "step": run.step,
        "version": run.version,
        "reason": run.reason,
        "as_of": run.as_of,
        "attempts": run.attempts,
        "outcome": {name: value for name, value in run.outcome.items() if name != "traceback"},
    }


def _state_of(release: Any) -> str:
    if release is None or release.champion is None:
        return "never released" if release is None or not release.archived else "archived"
    if release.archived:
        return "archived"
    return "frozen" if release.frozen else "served"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
