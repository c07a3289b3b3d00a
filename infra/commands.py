"""What `python -m infra` does with an environment: the projects in their order, questions, and what is printed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from infra import access, own_cluster
from infra.engine import Engine, Outcome, Project, projects_of
from infra.failures import spell
from infra.provenance import find_faults
from infra.pulumi_cli import find_cli
from infra.time_limit import time_limit
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem, Refused
from slipway.targets.kubernetes.cluster_checks import BEFORE_DOWN, BEFORE_UP
from slipway.targets.kubernetes.examined_cluster import ExaminedCluster
from slipway.targets.local.doors import cluster_hosts

Say = Callable[[str], None]

WITHIN = 3600.0
"""Seconds that one command may take on a cluster that is there; twice that where it makes or removes the cluster."""


ROOM = 256 << 20
"""Bytes that must be free where the state is: Pulumi keeps copies of it."""


def preview(environment: Environment, say: Say) -> int:
    """What would change, what `up` would refuse, and the findings of the policy pack; exit 1 when there are any."""
    cluster = _find_cluster(environment, say)
    obstacles = [*_list_obstacles(environment, cluster), *find_faults(environment)]
    findings = 0
    with _time_limit(environment, say) as told:
        for project in own_cluster.list_previewed(environment, told):
            told(f"{project}:")
            outcome = Engine(environment, project, told).preview()
            findings += len(outcome.findings)
            told(_sum_plan(outcome))
    say(f"{findings} findings of the policy pack" if findings else "no findings of the policy pack")
    if obstacles:
        say("up would refuse:")
        for problem in obstacles:
            say("  " + str(problem).replace("\n", "\n  "))
    else:
        say(f"next: slipway --env {spell(environment)} up")
    return 1 if findings or obstacles else 0


def up(environment: Environment, say: Say, *, yes: bool) -> int:
    """Stand everything up, the cluster first where we make it. Whatever is wrong is said before anything is touched."""
    problems = [*_missing_tools(), *_missing_room(environment), *find_faults(environment)]
    try:
        cluster = _find_cluster(environment, say)
    except InvalidInput as error:
        raise InvalidInput([*error.problems, *problems]) from error
    if problems := [*_list_obstacles(environment, cluster), *problems]:
        raise InvalidInput(problems)
    name = environment.settings.name
    _ask(f"Stand {name} up in {cluster}?" if cluster else f"Make the cluster of {name}, and stand it up?", yes=yes)
    if cluster:
        access.settle(environment, cluster)
    outcomes: list[Outcome] = []
    with _time_limit(environment, say) as told:
        for project in projects_of(environment.settings):
            told(f"{project}:")
            outcomes.append(Engine(environment, project, told).up())
            told(_sum(outcomes[-1]))
            if project == "cluster":
                own_cluster.keep_kubeconfig(environment, told)
    _print_outputs(outcomes[-1].outputs, say)
    pages = cluster_hosts(environment.settings.kubernetes) if environment.settings.kubernetes else {}
    say(f"next: slipway --env {spell(environment)} {'token login' if 'portal' in pages else 'status'}")
    return 0


def refresh(environment: Environment, say: Say) -> int:
    """What is not as we left it; `up` puts it right."""
    _find_cluster(environment, say)
    drifted = 0
    with _time_limit(environment, say) as told:
        for project in projects_of(environment.settings):
            told(f"{project}:")
            outcome = Engine(environment, project, told).refresh()
            drifted += len(outcome.changed)
            told(_sum(outcome))
    say(f"{drifted} resources are not as we left them; up puts them right" if drifted else "all is as we left it")
    return 0


def down(environment: Environment, say: Say, *, yes: bool, keep_data: bool) -> int:
    """Remove everything that we made, the services first; asks, naming what goes."""
    name = environment.settings.name
    cluster = _find_cluster(environment, say)
    if problems := _list_obstacles(environment, cluster, removing=True):
        raise InvalidInput(problems)
    again = f"slipway --env {spell(environment)} up"
    projects = own_cluster.list_removed(environment, keep_data=keep_data)
    with _time_limit(environment, say) as told:
        engines = [Engine(environment, project, told) for project in projects]
        plans = [engine.plan_removal(keep_data=keep_data) for engine in engines]
        for engine, plan in zip(engines, plans, strict=True):
            told(f"{engine.name}:")
            for line in plan.lines():
                told(f"  {line}")
        if any(plan.counts for plan in plans):
            _ask(f"Remove all this from {cluster or name}?", yes=yes)
        for engine in engines:
            told(_sum(engine.down(keep_data=keep_data)))
    if keep_data:
        say(f"The data stays; next: {again}")
    else:
        access.leave(environment)
        own_cluster.forget_kubeconfig(environment)
        say(f"Nothing of {name} is left; next: {again}")
    return 0


def status(environment: Environment, say: Say, *, as_json: bool = False) -> int:
    """What stands, as the state has it, and the addresses. Makes nothing."""
    found: dict[str, dict[str, object]] = {}
    for project in projects_of(environment.settings):
        engine = Engine.find(environment, project, (lambda _: None) if as_json else say)
        name = f"{environment.settings.name}/{project}"
        found[name] = {"resources": engine.count_resources(), **engine.outputs()} if engine else {"resources": 0}
    if as_json:
        say(json.dumps(found, indent=2, default=str))
        return 0
    for name, told in found.items():
        count = told.pop("resources")
        say(f"{name}: {count} resources" if count else f"{name}: not up")
        _print_outputs(told, say)
    return 0


def unlock(environment: Environment, say: Say, project: Project, *, yes: bool) -> int:
    """Take a lock away that a run elsewhere left."""
    _ask(f"Is no run at work on {environment.settings.name}/{project}, here or elsewhere?", yes=yes)
    Engine(environment, project, say).unlock()
    say("unlocked")
    return 0


def _find_cluster(environment: Environment, say: Say) -> ExaminedCluster | None:
    """The existing cluster that is meant, said aloud; None where it is of our own making."""
    cluster = access.find_cluster(environment)
    if cluster:
        say(str(cluster))
    else:
        own_cluster.check_account(environment, say)
    return cluster


def _missing_tools() -> list[Problem]:
    try:
        find_cli()
    except InvalidInput as error:
        return list(error.problems)
    return []


def _missing_room(environment: Environment) -> list[Problem]:
    folder = environment.state.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free >= ROOM:
        return []
    # A disk that fills up in the middle leaves a state that Pulumi cannot read.
    return [Problem("state_dir", f"{free >> 20} MiB are free at {folder}, {ROOM >> 20} are needed", "make room there")]


def _list_obstacles(
    environment: Environment, cluster: ExaminedCluster | None, *, removing: bool = False
) -> list[Problem]:
    if not cluster:
        return []
    return access.list_obstacles(cluster, environment, BEFORE_DOWN if removing else BEFORE_UP)


def _time_limit(environment: Environment, say: Say) -> AbstractContextManager[Say]:
    return time_limit(WITHIN * len(projects_of(environment.settings)), say)


def _ask(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"nobody is there to answer: {question}", hint="--yes answers (make: YES=1)")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused("not confirmed: nothing was changed")


def _sum(outcome: Outcome) -> str:
    return f"  {outcome.summary}"


def _sum_plan(outcome: Outcome) -> str:
    steps = [f"{count} to {step}" for step, count in sorted(outcome.steps.items()) if step != "same"]
    return f"  in all: {', '.join(steps) or 'nothing to change'}; {outcome.steps.get('same', 0)} stay as they are"


def _print_outputs(outputs: object, say: Say) -> None:
    if isinstance(outputs, dict):
        for name, value in sorted(outputs.items()):
            rows = value.items() if isinstance(value, dict) else [(name, value)]
            for key, text in rows:
                say(f"  {key:<12} {', '.join(map(str, text)) if isinstance(text, list) else text}")
