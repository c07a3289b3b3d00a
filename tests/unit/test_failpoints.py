"""The controller killed at every named place, and anywhere: its successor brings the same world to the same end.

Each life of a controller is a forked process on a real ledger; the target is a file that outlives it. A life is ended
by SIGKILL, so nothing gets a chance to tidy up.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from slipway import analysis, failpoints
from slipway.contract import Contract
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
from tests.unit.test_rollout import make_pairs

END = START + 60 * DAY
STEPS = 14
"""Passes that the story below needs at most when nobody is killed."""


class Story:
    """One model's life: launch, a promotion, a bad version hauled back, a decay that asks for a retraining."""

    def __init__(self, folder: Path) -> None:
        self.environment = make_environment(folder)
        self.target = FileTarget(folder / "target.json")
        self.contract = make_contract()
        failpoints.watch(self.environment.state.run)

    def tell(self, ledger: Ledger, step: int) -> None:
        """What the outside world has done by `step`; safe to tell twice."""
        set_clock(self.environment, START + step * 2 * DAY)
        if step == 0:
            deliver(ledger, 1)
        elif step == 1:
            deliver(ledger, 2)
        elif step == 6:
            deliver(ledger, 3)
        elif step == 9:
            _store_bad_windows(ledger)
        elif step == 11:
            _finish_runs(ledger)
        with ledger.read() as session:
            rollout = rollouts.open_for(session, MODEL)
        if rollout is not None and rollout.state == "canary":
            self.target.answer(rollout.champion or 0, 1000)
            self.target.answer(rollout.challenger, 800, errors=0 if rollout.challenger == 2 else 400)

    def live(self, step: int) -> int:
        """One life of a controller that passes until it finds everything in order; its exit status."""
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            return status
        try:
            analysis.read_pairs = _good_pairs
            Outreach.mirror = lambda *_: None  # type: ignore[method-assign]
            ledger = Ledger(self.environment.state.ledger_url)
            loop = Loop(self.environment, ledger, self.target, contracts=self._contract, executor=AtOnce())
            for _ in range(4):
                loop._advance._canary._sampled.clear()
                loop.turn()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _contract(self, _: str) -> Contract:
        return self.contract


def _good_pairs(*_: object, **__: object) -> pd.DataFrame:
    return make_pairs(0.2, rows=600)


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


def _play(folder: Path, before: Callable[[Story, int], None]) -> tuple[Story, Ledger, int]:
    """The story to its end; `before` each step may arm something. A killed controller is started again, as by
    supervisord. Also: how many were killed."""
    story, kills = Story(folder), 0
    ledger = open_ledger(story.environment)
    for step in range(STEPS):
        ledger.close()  # no connection may be open across a fork
        before(story, step)
        story.tell(ledger, step)
        ledger.close()
        for _ in range(4):
            status = story.live(step)
            assert status in (0, signal.SIGKILL), f"a controller ended with status {status}"
            if status == 0:
                break
            kills += 1
            _check_invariants(ledger, story.target)
            ledger.close()
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


def _check_end(story: Story, ledger: Ledger) -> None:
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


def test_the_story_ends_as_told_when_nobody_is_killed(tmp_path: Path) -> None:
    story, ledger, kills = _play(tmp_path, lambda *_: None)
    assert kills == 0
    _check_end(story, ledger)
    ledger.close()


@pytest.mark.parametrize("name", failpoints.FAILPOINTS)
def test_a_controller_killed_at_a_failpoint_comes_to_the_same_end(tmp_path: Path, name: str) -> None:
    def arm(story: Story, step: int) -> None:
        if step == 0:
            failpoints.arm(story.environment.state.run, name)

    story, ledger, kills = _play(tmp_path, arm)
    assert kills == 1, f"{name} was never reached"
    _check_end(story, ledger)
    ledger.close()


@pytest.mark.parametrize("seed", range(4))
def test_controllers_killed_at_random_places_again_and_again_come_to_the_same_end(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)

    def arm(story: Story, step: int) -> None:
        failpoints.arm(story.environment.state.run, draw.choice(failpoints.FAILPOINTS))

    story, ledger, _ = _play(tmp_path, arm)
    (story.environment.state.run / "failpoint").unlink(missing_ok=True)
    assert story.live(STEPS) == 0
    _check_end(story, ledger)
    ledger.close()


def test_a_failpoint_that_is_not_armed_does_nothing(tmp_path: Path) -> None:
    failpoints.watch(tmp_path)
    failpoints.failpoint("intake.before_ledger")


def test_the_variable_kills_once_and_then_lets_the_successor_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failpoints.watch(tmp_path)
    monkeypatch.setenv(failpoints.VARIABLE, "intake.before_ledger")
    statuses = []
    for _ in range(2):
        child = os.fork()
        if not child:
            failpoints.failpoint("intake.before_ledger")
            os._exit(0)
        statuses.append(os.waitpid(child, 0)[1])
    assert statuses == [signal.SIGKILL, 0]


def test_an_unknown_failpoint_cannot_be_armed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no failpoint"):
        failpoints.arm(tmp_path, "nowhere")


def test_every_failpoint_of_the_code_is_listed_and_every_listed_one_is_in_the_code() -> None:
    import re

    import slipway

    source = Path(next(iter(slipway.__path__)))
    texts = [file.read_text() for folder in ("controller", ".") for file in (source / folder).glob("*.py")]
    used = {
        name
        for text in texts
        for name in re.findall(r'"((?:intake|rollout|traffic|revision|trigger)\.[a-z_.]+)"', text)
    }
    assert used == set(failpoints.FAILPOINTS)
