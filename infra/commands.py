"""What `python -m infra` does with an environment: the projects in their order, questions, and what is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from infra.access import check_access, read_context
from infra.engine import Engine, Outcome, Project, projects_of
from slipway.environment import Environment
from slipway.errors import Refused

Say = Callable[[str], None]


def preview(environment: Environment, say: Say) -> int:
    """What would change, with the findings of the policy pack; exit 1 when there are any."""
    findings = 0
    _look_at_cluster(environment, say)
    for project in projects_of(environment.settings):
        say(f"{project}:")
        outcome = Engine(environment, project, say).preview()
        findings += len(outcome.findings)
        say(_sum(outcome))
    say(f"{findings} findings of the policy pack" if findings else "no findings of the policy pack")
    return 1 if findings else 0


def up(environment: Environment, say: Say, *, yes: bool) -> int:
    """Stand everything up, the cluster first where we make it."""
    if target := _look_at_cluster(environment, say):
        _ask(f"Stand the platform up in {target}?", yes=yes)
    outcomes: list[Outcome] = []
    for project in projects_of(environment.settings):
        say(f"{project}:")
        outcomes.append(Engine(environment, project, say).up())
        say(_sum(outcomes[-1]))
    _print_outputs(outcomes[-1].outputs, say)
    say(f"next: slipway --env {environment.settings.name} status")
    return 0


def refresh(environment: Environment, say: Say) -> int:
    """What is not as we left it; `up` puts it right."""
    _look_at_cluster(environment, say)
    drifted = 0
    for project in projects_of(environment.settings):
        say(f"{project}:")
        outcome = Engine(environment, project, say).refresh()
        drifted += len(outcome.changed)
        say(_sum(outcome))
    say(f"{drifted} resources are not as we left them; up puts them right" if drifted else "all is as we left it")
    return 0


def down(environment: Environment, say: Say, *, yes: bool, keep_data: bool) -> int:
    """Remove everything that we made, the services first; asks, naming what goes."""
    name = environment.settings.name
    _look_at_cluster(environment, say)
    engines = [Engine(environment, project, say) for project in reversed(projects_of(environment.settings))]
    for engine in engines:
        say(f"{engine.name}:")
        for line in engine.plan_removal(keep_data=keep_data).lines():
            say(f"  {line}")
    _ask(f"Remove all this from {name}?", yes=yes)
    for engine in engines:
        say(_sum(engine.down(keep_data=keep_data)))
    again = f"slipway --env {name} up"
    say(f"The data stays; next: {again}" if keep_data else f"Nothing of {name} is left; next: {again}")
    return 0


def status(environment: Environment, say: Say, *, as_json: bool = False) -> int:
    """What stands, as the state has it, and the addresses."""
    if as_json:
        engines = [Engine(environment, project, lambda _: None) for project in projects_of(environment.settings)]
        found = {engine.name: {"resources": engine.count_resources(), **engine.outputs()} for engine in engines}
        say(json.dumps(found, indent=2, default=str))
        return 0
    for project in projects_of(environment.settings):
        engine = Engine(environment, project, say)
        count = engine.count_resources()
        say(f"{engine.name}: {count} resources" if count else f"{engine.name}: not up")
        _print_outputs(engine.outputs(), say)
    return 0


def unlock(environment: Environment, say: Say, project: Project, *, yes: bool) -> int:
    """Take a lock away that a run elsewhere left."""
    _ask(f"Is no run at work on {environment.settings.name}/{project}, here or elsewhere?", yes=yes)
    Engine(environment, project, say).unlock()
    say("unlocked")
    return 0


def _look_at_cluster(environment: Environment, say: Say) -> str:
    """For an existing cluster: which one it is, after checking that we can work there."""
    settings = environment.settings.kubernetes
    if settings is None or settings.provider != "existing":
        return ""
    context = read_context(settings)
    say(str(context))
    check_access(context)
    return str(context)


def _ask(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"nobody is there to answer: {question}", hint="--yes answers (make: YES=1)")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused("not confirmed: nothing was changed")


def _sum(outcome: Outcome) -> str:
    return f"  {outcome.summary}"


def _print_outputs(outputs: object, say: Say) -> None:
    if isinstance(outputs, dict):
        for name, value in sorted(outputs.items()):
            rows = value.items() if isinstance(value, dict) else [(name, value)]
            for key, text in rows:
                say(f"  {key:<12} {text}")
