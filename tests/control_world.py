"""A small world for the controller: a real ledger on disk, and a target that is only a file.

The target outlives the controller as the real one does, so a test can kill the controller anywhere and start another.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from slipway.clock import ReplayClock
from slipway.contract import Contract
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.ledger import Ledger, releases, runs, versions
from slipway.ledger.schema import RunRow
from slipway.pod import Pod
from slipway.settings import Settings
from slipway.targets import Answers, Traffic

MODEL = "toy"
START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def make_contract(**changes: Any) -> Contract:
    """A contract with a two-step canary that needs few answers and labels."""
    document: dict[str, Any] = {
        "model": MODEL,
        "owner": {"team": "tests", "contact": "tests@example.com"},
        "task": "binary_classification",
        "description": "A model for tests.",
        "entity": {"keys": ["key"], "event_time": "moment"},
        "request": [{"name": "key", "type": "string"}, {"name": "moment", "type": "timestamp"}],
        "features": {"service": "toy_v1"},
        "label": {"name": "late", "known_at": "later", "longest_delay": "1d"},
        "rollout": {
            "steps": [10, 50], "hold": "1d", "max_hold": "5d", "min_answers": 300, "min_labels": 200,
            "limits": {"errors": 0.01, "latency_ratio": 1.5, "auc_drop": 0.05},
        },
        "retraining": {"on": ["performance"], "cooldown": "7d", "budget": "3 per 60d"},
    }  # fmt: skip
    return Contract.model_validate({**document, **changes})


def make_environment(folder: Path, pod: Pod | None = None) -> Environment:
    """An environment whose clock stands at START; its tables are in the pod's database, if there is a pod."""
    environment = Environment(folder / "test.toml", Settings(name="test", state_dir=folder / "state"), pod)
    environment.state.run.mkdir(parents=True, mode=0o700)
    set_clock(environment, START)
    return environment


def set_clock(environment: Environment, moment: datetime) -> None:
    clock = environment.clock
    assert isinstance(clock, ReplayClock)
    clock.set(moment)


def deliver(
    ledger: Ledger, version: int, *, digest: str | None = None, passed: bool = True, as_of: datetime = START
) -> RunRow:
    """What the pipeline leaves behind: a version with its gate record, and a run that has ended."""
    with ledger.transaction() as session:
        run = runs.submit(session, key=f"delivery-{version}", model=MODEL, reason="test", as_of=as_of)
        row = versions.add(
            session,
            MODEL,
            version,
            digest=digest or f"{version:064d}",
            gate={"verdict": passed},
            passed=passed,
            as_of=as_of,
        )
        state = "succeeded" if row.state == "candidate" else "refused"
        return runs.finish(session, run.id, state, version=version, outcome={})


def release_of(ledger: Ledger) -> tuple[int | None, int | None, int]:
    """(champion, previous, epoch)."""
    with ledger.read() as session:
        release = releases.read(session, MODEL)
    return (release.champion, release.previous, release.epoch) if release else (None, None, 0)


class AtOnce(Executor):
    """Runs work where it is submitted, so that a test needs no waiting."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class FileTarget:
    """Implements `slipway.targets.Target` on a JSON file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def apply_revision(self, model: str, version: int) -> None:
        with self._change() as world:
            if version in world["broken"]:
                raise NotReady(f"version {version} does not start")
            world["revisions"][str(version)] = True

    def remove_revision(self, model: str, version: int) -> None:
        with self._change() as world:
            routed = world["traffic"] or {}
            if version in (routed.get("champion"), routed.get("challenger")):
                world["violations"].append(f"version {version} was removed while it answers")
            world["revisions"].pop(str(version), None)

    def list_revisions(self, model: str) -> dict[int, bool]:
        return {int(version): ready for version, ready in self._read()["revisions"].items()}

    def set_traffic(self, model: str, traffic: Traffic) -> None:
        with self._change() as world:
            if world["gateway_down"]:
                raise NotReady("the gateway is away")
            for version in (traffic.champion, traffic.challenger):
                if version is not None and not world["revisions"].get(str(version)):
                    world["violations"].append(f"routed to version {version}, which does not run")
            world["traffic"] = asdict(traffic)
            world["history"].append([traffic.champion, traffic.challenger, traffic.percent])

    def read_traffic(self, model: str) -> Traffic | None:
        fields = self._read()["traffic"]
        return Traffic(**fields) if fields else None

    def count_answers(self, model: str) -> dict[int, Answers]:
        world = self._read()
        if world["metrics_gone"]:
            raise NotReady("the gateway does not say")
        routed = world["traffic"] or {}
        versions = [routed[name] for name in ("champion", "challenger", "previous") if routed.get(name)]
        return {version: Answers(*world["answers"].get(str(version), (0, 0))) for version in versions}

    def answer(self, version: int, count: int, *, errors: int = 0, latency: float = 0.01) -> None:
        """Pretend that this version was asked."""
        with self._change() as world:
            total, failed, *_ = world["answers"].get(str(version), (0, 0))
            world["answers"][str(version)] = (total + count, failed + errors, latency)

    def set(self, **facts: Any) -> None:
        """Break or mend something: broken (versions), gateway_down, metrics_gone, answers, traffic, revisions."""
        with self._change() as world:
            world.update(facts)

    @property
    def history(self) -> list[list[int | None]]:
        """Every change of traffic: [champion, challenger, percent]."""
        history: list[list[int | None]] = self._read()["history"]
        return history

    @property
    def violations(self) -> list[str]:
        """What the controller asked for and never should."""
        violations: list[str] = self._read()["violations"]
        return violations

    def _read(self) -> dict[str, Any]:
        try:
            world: dict[str, Any] = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {
                "revisions": {}, "traffic": None, "history": [], "answers": {}, "broken": [],
                "gateway_down": False, "metrics_gone": False, "violations": [],
            }  # fmt: skip
        return world

    @contextmanager
    def _change(self) -> Iterator[dict[str, Any]]:
        with (self.file.with_name("target.lock")).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            world = self._read()
            yield world
            draft = self.file.with_name(f"target.{os.getpid()}")
            draft.write_text(json.dumps(world))
            draft.replace(self.file)
