"""A story for the controller, told to processes that are killed: launch, promotion, a bad version, a decay.

Each life of a controller is a forked process on a real ledger; the target is a file that outlives it. A life is ended
by SIGKILL, so nothing gets a chance to tidy up.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from slipway import analysis, failpoints
from slipway.controller.loop import Loop
from slipway.controller.outreach import Outreach
from slipway.ledger import Ledger, events, monitors, open_ledger, progress, releases, rollouts, runs, triggers, versions
from slipway.targets import Traffic
from tests.control_world import (
    DAY,
    MODEL,
    START,
    AtOnce,
    FileTarget,
    deliver,
    make_contract,
    make_environment,
    release_of,
    set_clock,
)  # fmt: skip

STEPS = 9
MOST_LIVES = 30


class Story:
    """One model's life: launch, a promotion, a bad version hauled back, a decay that asks for a retraining."""

    def __init__(self, folder: Path) -> None:
        self.environment = make_environment(folder)
        self.target = FileTarget(folder / "target.json")
        self.contract = make_contract()

    def tell(self, ledger: Ledger, step: int) -> None:
        """What the outside world has done by `step`; safe to tell twice."""
        set_clock(self.environment, START + step * 3 * DAY)
        if step == 0:
            deliver(ledger, 1)
        elif step == 1:
            deliver(ledger, 2)
        elif step == 4:
            deliver(ledger, 3)
        elif step == 6:
            _store_bad_windows(ledger)
        elif step == 7:
            _finish_runs(ledger)
        with ledger.read() as session:
            rollout = rollouts.open_for(session, MODEL)
        if rollout is not None and rollout.state == "canary":
            self.target.answer(rollout.champion or 0, 1000)
            self.target.answer(rollout.challenger, 800, errors=0 if rollout.challenger == 2 else 400)

    def arm(self, *names: str) -> None:
        failpoints.arm(self.environment.state.run, *names)

    def armed(self) -> set[str]:
        file = self.environment.state.run / "failpoint"
        return set(file.read_text().split()) if file.exists() else set()

    def live(self) -> int:
        """One life of a controller that passes until it finds everything in order; its exit status."""
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            return status
        try:
            # Here, not in the parent: what is still armed at the end would kill the next test that comes there.
            failpoints.watch(self.environment.state.run)
            analysis.read_pairs = _good_pairs
            Outreach.mirror = lambda *_: None  # type: ignore[method-assign]
            ledger = Ledger(self.environment.state.ledger_url)
            loop = Loop(self.environment, ledger, self.target, contracts=lambda _: self.contract, executor=AtOnce())
            for _ in range(2):
                loop._advance._canary._sampled.clear()
                loop.turn()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def _good_pairs(*_: object, **__: object) -> pd.DataFrame:
    rows = np.arange(600)
    label = (rows % 2).astype(float)
    days = pd.Timestamp(START) + pd.to_timedelta(rows % 6, unit="D")
    score = label + rows * 7 % 11 / 5
    return pd.DataFrame({"day": days, "champion": score, "challenger": score + label, "label": label})


def _store_bad_windows(ledger: Ledger) -> None:
    with ledger.transaction() as session:
        release = releases.require(session, MODEL)
        for number in range(2):
            monitors.store(
                session, model=MODEL, kind="performance", version=release.champion, epoch=release.epoch,
                window_start=START + (2 + 7 * number) * DAY, window_end=START + (9 + 7 * number) * DAY,
                verdict="bad", metric=0.6, numbers={}, as_of=START + 18 * DAY,
            )  # fmt: skip


def _finish_runs(ledger: Ledger) -> None:
    with ledger.transaction() as session:
        for run in runs.list_all(session, MODEL):
            if run.state == "waiting":
                runs.finish(session, run.id, "refused", outcome={"message": "the gate said no"})


def play(folder: Path, before: Callable[[Story, int], object]) -> tuple[Story, Ledger, list[str]]:
    """The story to its end; `before` each step may arm something. Also: the failpoints at which controllers died.

    A killed controller is started again, as by supervisord; nobody else mends anything.
    """
    story = Story(folder)
    kills: list[str] = []
    ledger = open_ledger(story.environment)
    for step in range(STEPS):
        before(story, step)
        story.tell(ledger, step)
        for _ in range(MOST_LIVES):
            ledger.close()  # no connection may be open across a fork
            armed = story.armed()
            status = story.live()
            assert status in (0, signal.SIGKILL), f"a controller ended with status {status}"
            if status == 0:
                break
            kills += armed - story.armed()
            _check_invariants(ledger, story.target)
    return story, ledger, kills


def _check_invariants(ledger: Ledger, target: FileTarget) -> None:
    """True at every moment, however the controller ended: one champion, which runs, and traffic only to known good."""
    with ledger.read() as session:
        assert events.verify(session) == []
        champions = [row.version for row in versions.list_all(session, MODEL) if row.state == "champion"]
        release = releases.read(session, MODEL)
        assert champions == ([release.champion] if release else [])
    traffic = target.read_traffic(MODEL)
    if traffic is not None:
        assert target.list_revisions(MODEL).get(traffic.champion)


def check_end(story: Story, ledger: Ledger) -> None:
    assert story.target.violations == []
    assert release_of(ledger) == (2, 1, 2)
    assert story.target.read_traffic(MODEL) == Traffic(champion=2, previous=1)
    assert story.target.list_revisions(MODEL) == {1: True, 2: True}
    with ledger.read() as session:
        ends = [(row.challenger, row.state) for row in rollouts.list_all(session, MODEL)]
        assert ends == [(1, "done"), (2, "done"), (3, "aborted")]
        states = {row.version: row.state for row in versions.list_all(session, MODEL)}
        assert states == {1: "retired", 2: "champion", 3: "rolled_back"}
        assert [(row.kind, row.state) for row in triggers.list_all(session, MODEL)] == [("performance", "done")]
        assert len([run for run in runs.list_all(session, MODEL) if run.trigger]) == 1
        assert progress.outstanding(session) == []
        assert events.verify(session) == []
        kinds = [event.kind for event in events.read(session, MODEL)]
        assert kinds.count("promoted") == 2
        assert kinds.count("trigger_fired") == 1
