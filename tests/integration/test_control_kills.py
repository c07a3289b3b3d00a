"""Each failpoint by itself, and many seeded draws: too long for every run of the hermetic tests."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from slipway import failpoints
from tests.control_story import check_end, play

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", failpoints.FAILPOINTS)
def test_a_controller_killed_at_a_failpoint_comes_to_the_same_end(tmp_path: Path, name: str) -> None:
    story, ledger, kills = play(tmp_path, lambda story, step: step or story.arm(name))
    assert kills == [name]
    check_end(story, ledger)
    ledger.close()


@pytest.mark.parametrize("seed", range(100, 108))
def test_controllers_killed_at_random_places_come_to_the_same_end(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    story, ledger, kills = play(tmp_path, lambda story, _: story.arm(*draw.sample(failpoints.FAILPOINTS, 4)))
    assert kills
    check_end(story, ledger)
    ledger.close()
