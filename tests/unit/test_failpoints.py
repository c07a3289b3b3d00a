"""Killed at every named place, and anywhere: the controller's successor brings the same world to the same end."""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path

import pytest

import slipway
from slipway import failpoints
from tests.control_story import check_end, play


def test_the_story_ends_as_told_when_nobody_is_killed(tmp_path: Path) -> None:
    story, ledger, kills = play(tmp_path, lambda *_: None)
    assert kills == []
    check_end(story, ledger)
    ledger.close()


def test_controllers_killed_at_every_failpoint_in_turn_come_to_the_same_end(tmp_path: Path) -> None:
    story, ledger, kills = play(tmp_path, lambda story, step: step or story.arm(*failpoints.FAILPOINTS))
    assert sorted(kills) == sorted(failpoints.FAILPOINTS)
    check_end(story, ledger)
    ledger.close()


@pytest.mark.parametrize("seed", range(2))
def test_controllers_killed_at_random_places_come_to_the_same_end(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    story, ledger, kills = play(tmp_path, lambda story, _: story.arm(*draw.sample(failpoints.FAILPOINTS, 4)))
    assert kills
    check_end(story, ledger)
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
    source = Path(next(iter(slipway.__path__)))
    texts = [file.read_text() for folder in ("controller", ".") for file in (source / folder).glob("*.py")]
    used = {
        name
        for text in texts
        for name in re.findall(r'"((?:intake|rollout|traffic|revision|trigger)\.[a-z_.]+)"', text)
    }
    assert used == set(failpoints.FAILPOINTS)
