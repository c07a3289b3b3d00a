"""A server that starts while the registry does: it waits for it, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import revision
from slipway.environment import Environment
from slipway.errors import NotReady, Refused
from slipway.settings import Settings

MODEL = "flight_delay"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "test.toml", Settings(name="test", state_dir=tmp_path / "state"))


def answers(monkeypatch: pytest.MonkeyPatch, *found: Exception) -> list[Exception]:
    """Let the registry answer with these, one after the other; what it has not answered yet."""
    left = list(found)

    def fetch(*_: object) -> Path:
        raise left.pop(0)

    monkeypatch.setattr(revision, "fetch_bundle", fetch)
    monkeypatch.setattr(revision, "_PAUSE", 0.0)
    return left


def test_a_registry_that_is_starting_is_waited_for(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    left = answers(monkeypatch, NotReady("starting"), NotReady("starting"), Refused("it answers"))
    with pytest.raises(Refused, match="it answers"):
        revision.load_revision(environment, MODEL, 1)
    assert left == []


def test_a_registry_that_stays_away_ends_the_wait(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter((0.0, 30.0, 61.0))
    monkeypatch.setattr("serving.revision.time.monotonic", lambda: next(clock))
    answers(monkeypatch, NotReady("away"), NotReady("still away"))
    with pytest.raises(NotReady, match="still away"):
        revision.load_revision(environment, MODEL, 1)
