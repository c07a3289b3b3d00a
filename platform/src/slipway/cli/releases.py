"""Commands for releases, rollouts and events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli.operator import name_operator, open_platform
from slipway.cli.output import Json, print_facts, print_json
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem, SlipwayError, Unknown

if TYPE_CHECKING:
    from slipway.ledger import Ledger
    from slipway.ledger.schema import ReleaseRow, RolloutRow
    from slipway.rollout import Switch

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded with your name.")]

rollout_app = typer.Typer(no_args_is_help=True, help="See, hold or end the rollout in progress.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("releases")(show_releases)
    app.add_typer(rollout_app, name="rollout")
    app.command("rollback")(roll_back)
    app.command("resume")(resume)
    app.command("promote")(promote)
    app.command("events")(show_events)


def show_releases(model: Model, as_json: Json = False) -> None:
    """Show who is champion, and every version with its state."""
    from slipway.ledger import releases, versions

    _, ledger = _open(model)
    with ledger.read() as session:
        release = releases.read(session, model)
        rows = versions.list_all(session, model)
    known = [
        {
            "version": row.version,
            "state": row.state,
            "digest": row.digest[:12],
            "gate": row.gate.get("verdict", ""),
            "as_of": row.as_of,
        }
        for row in rows
    ]
    if as_json:
        print_json({"release": None if release is None else _release_facts(release), "versions": known})
        return
    print_facts(f"release of {model}", [] if release is None else [_release_facts(release)], False)
    print_facts("versions", known, False)


@rollout_app.command("show")
def show_rollout(model: Model, as_json: Json = False) -> None:
    """Show the rollouts of a model, the newest last, with what was looked at."""
    from slipway.ledger import rollouts

    _, ledger = _open(model)
    with ledger.read() as session:
        rows = rollouts.list_all(session, model)
        facts = [_rollout_facts(row) for row in rows]
    if as_json:
        print_json([{**fact, "looks": row.looks, "counts": row.counts} for fact, row in zip(facts, rows, strict=True)])
        return
    print_facts(f"rollouts of {model}", facts, False)
    if rows:
        print_facts("what was looked at in the last one", _looks(rows[-1]), False)


@rollout_app.command("pause")
def pause_rollout(model: Model) -> None:
    """Hold the rollout where it is; failing health still rolls back."""
    _set_paused(model, True)


@rollout_app.command("resume")
def resume_rollout(model: Model) -> None:
    """Let a paused rollout go on; its present step begins anew."""
    _set_paused(model, False)


@rollout_app.command("abort")
def abort_rollout(model: Model, reason: Reason = "aborted by hand", as_json: Json = False) -> None:
    """Haul the challenger back at once; its content is not rolled out again."""
    from slipway.ledger import rollouts
    from slipway.rollout import apply_traffic
    from slipway.targets import open_target

    environment, ledger = _open(model)
    as_of = environment.clock.as_of()
    with ledger.transaction() as session:
        row = rollouts.abort(session, model, actor=name_operator(), reason=reason, as_of=as_of)
    apply_traffic(environment, ledger, open_target(environment), model)
    _say(f"{model}: version {row.challenger} was hauled back", _rollout_facts(row), as_json)


def roll_back(
    model: Model,
    reason: Reason,
    to: Annotated[int | None, typer.Option("--to", help="Version to go back to; default: the previous one.")] = None,
    as_json: Json = False,
) -> None:
    """Put an older version back now, and freeze automation until `slipway resume`."""
    from slipway import rollout
    from slipway.targets import open_target

    environment, ledger = _open(model)
    switch = rollout.roll_back(
        environment, ledger, open_target(environment), model, to=to, actor=name_operator(), reason=_given(reason)
    )
    _say_switched(switch, as_json, f"automation is frozen; slipway resume {model} lets it act again")


def resume(model: Model, as_json: Json = False) -> None:
    """Let automation act on a model again after a rollback by hand."""
    from slipway.ledger import releases

    environment, ledger = _open(model)
    with ledger.transaction() as session:
        release = releases.resume(session, model, actor=name_operator(), as_of=environment.clock.as_of())
    _say(f"{model}: automation acts again", _release_facts(release), as_json)


def promote(
    model: Model,
    version: Annotated[int, typer.Argument(help="Version to make champion.")],
    reason: Reason,
    unblock: Annotated[bool, typer.Option("--unblock", help="Also if this content was rolled back before.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version champion without gate and canary: a recorded override. Its bundle must verify all the same."""
    from slipway import rollout
    from slipway.targets import open_target

    environment, ledger = _open(model)
    switch = rollout.promote(
        environment,
        ledger,
        open_target(environment),
        model,
        version,
        actor=name_operator(),
        reason=_given(reason),
        unblock=unblock,
    )
    _say_switched(switch, as_json, f"slipway rollback {model} --reason TEXT takes it back")


def show_events(
    model: Model,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain of all events and its signed head.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write the whole chain and its signed head as JSON lines.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many of the newest events.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who or what decided what, on which evidence."""
    from slipway.ledger import chain, events

    environment, ledger = _open(model)
    if verify:
        with ledger.read() as session:
            problems = [*events.verify(session), *chain.verify_head(environment, session)]
            number = events.count(session)
        if problems:
            raise SlipwayError("\n".join(str(problem) for problem in problems))
        _say(f"{number} events: the chain holds", {"events": number, "problems": []}, as_json)
    if export is not None:
        number = chain.export(environment, ledger, export)
        _say(f"{number} events written to {export}", {"events": number, "file": str(export)}, as_json)
    if verify or export is not None:
        return
    with ledger.read() as session:
        rows = events.read(session, model, limit)
    facts: list[dict[str, Any]] = [
        {"id": row.id, "as_of": row.as_of, "kind": row.kind, "actor": row.actor, "evidence": row.evidence}
        for row in rows
    ]
    if not as_json:
        facts = [{**fact, "evidence": _in_short(fact["evidence"])} for fact in facts]
    print_facts(f"events of {model}", facts, as_json)


def _open(model: str) -> tuple[Environment, Ledger]:
    """The environment and its ledger. Raises Unknown for a model without a contract or a trace in the ledger."""
    from slipway.contract import list_models
    from slipway.ledger import open_ledger, progress, releases

    environment = open_platform()
    ledger = open_ledger(environment)
    with ledger.read() as session:
        known = {row.model for row in releases.list_all(session)} | progress.busy_models(session) | set(list_models())
    if model not in known:
        raise Unknown("model", model, sorted(known))
    return environment, ledger


def _given(reason: str) -> str:
    if not reason.strip():
        raise InvalidInput(Problem("--reason", "is empty", "say why: it is what the next person reads"))
    return reason.strip()


def _set_paused(model: str, paused: bool) -> None:
    from slipway.ledger import rollouts

    environment, ledger = _open(model)
    with ledger.transaction() as session:
        row = rollouts.set_paused(session, model, paused, actor=name_operator(), as_of=environment.clock.as_of())
    typer.echo(f"{model}: the rollout of version {row.challenger} {'is paused' if paused else 'goes on'}")


def _release_facts(release: ReleaseRow) -> dict[str, object]:
    return {
        "model": release.model,
        "champion": release.champion,
        "previous": release.previous,
        "epoch": release.epoch,
        "frozen": release.frozen,
        "archived": release.archived,
    }


def _rollout_facts(row: RolloutRow) -> dict[str, object]:
    return {
        "id": row.id,
        "challenger": row.challenger,
        "champion": row.champion,
        "state": f"{row.state} (paused)" if row.paused else row.state,
        "step": f"{row.plan['steps'][row.step]} %" if row.state == "canary" else "",
        "since": row.step_since,
        "reason": row.reason,
    }


def _looks(row: RolloutRow) -> list[dict[str, object]]:
    return [
        {
            "step": f"{row.plan['steps'][int(step)]} %",
            "decision": look["decision"],
            "check": finding["check"],
            "verdict": finding["verdict"],
            "because": finding["because"],
        }
        for step, look in sorted(row.looks.items())
        for finding in look["findings"]
    ]


def _in_short(evidence: dict[str, Any]) -> str:
    """The parts of the evidence that fit on a line; --json prints all of it."""
    plain = {key: value for key, value in evidence.items() if not isinstance(value, dict | list) and value is not None}
    return ", ".join(f"{key}={value}" for key, value in plain.items())


def _say(sentence: str, facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        typer.echo(sentence)


def _say_switched(switch: Switch, as_json: bool, then: str) -> None:
    release, milliseconds = switch.release, round(switch.seconds * 1000)
    _say(
        f"{release.model}: version {release.champion} answers (switched in {milliseconds} ms)\n{then}",
        {**_release_facts(release), "switch_seconds": switch.seconds},
        as_json,
    )
