"""The controller as a process: one instance, a clean end, a quick successor, quick reactions, little idle work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from slipway.environment import Environment
from slipway.ledger import Ledger, open_ledger, progress, releases
from slipway.targets import Traffic
from tests.control_world import DAY, MODEL, START, FileTarget, deliver, make_environment, release_of, set_clock

pytestmark = pytest.mark.integration

PROGRAM = textwrap.dedent("""
    import signal, sys
    from pathlib import Path
    from threading import Event
    from slipway import logs
    from slipway.controller.loop import Loop
    from slipway.controller.outreach import Outreach
    from slipway.environment import Environment
    from slipway.errors import SlipwayError
    from slipway.ledger import open_ledger
    from slipway.settings import Settings
    from tests.control_world import FileTarget, make_contract

    folder, stop = Path(sys.argv[1]), Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logs.configure("controller")
    Outreach.mirror = lambda *_: None
    environment = Environment(folder / "test.toml", Settings(name="test", state_dir=folder / "state"))
    target = FileTarget(folder / "target.json")
    try:
        Loop(environment, open_ledger(environment), target, contracts=lambda _: make_contract()).run(stop)
    except SlipwayError as error:
        sys.exit(str(error))
""")


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: Environment = make_environment(folder)
        self.ledger: Ledger = open_ledger(self.environment)
        self.target = FileTarget(folder / "target.json")
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.folder)],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        self.processes.append(process)
        return process

    def wait(self, condition: Callable[[], bool], limit: float = 60) -> float:
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < limit, "it did not come about"
            time.sleep(0.01)
        return time.monotonic() - begun

    def has_reached(self) -> bool:
        with self.ledger.read() as session:
            return progress.read(session).get("controller") == self.environment.clock.as_of()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for process in world.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    world.ledger.close()


def test_it_launches_reacts_to_a_human_rollback_and_ends_on_sigterm(world: World) -> None:
    deliver(world.ledger, 1)
    process = world.start()
    world.wait(lambda: world.target.read_traffic(MODEL) == Traffic(champion=1))
    deliver(world.ledger, 2)
    world.wait(lambda: world.target.read_traffic(MODEL) == Traffic(champion=1, challenger=2, percent=10))
    with world.ledger.transaction() as session:
        releases.promote(session, MODEL, 2, epoch=1, actor="ann", reason="x", as_of=START, override=True)
        releases.roll_back(session, MODEL, actor="ann", reason="odd", as_of=START)
    seconds = world.wait(lambda: world.target.read_traffic(MODEL) == Traffic(champion=1))
    assert seconds < 5
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, "controller ended" in said) == (0, True)
    assert world.target.violations == []


def test_a_second_controller_waits_and_takes_over_when_the_first_is_killed(world: World) -> None:
    deliver(world.ledger, 1)
    first = world.start()
    world.wait(lambda: release_of(world.ledger)[0] == 1)
    world.start()
    time.sleep(2)
    first.kill()
    first.wait()
    deliver(world.ledger, 2)
    world.wait(lambda: world.target.read_traffic(MODEL) == Traffic(champion=1, challenger=2, percent=10))


def test_each_day_of_event_time_is_dealt_with_quickly_and_an_idle_controller_rests(world: World) -> None:
    deliver(world.ledger, 1)
    process = world.start()
    world.wait(world.has_reached)
    waits = []
    for day in range(1, 11):
        set_clock(world.environment, START + day * DAY)
        waits.append(world.wait(world.has_reached))
    assert sorted(waits)[5] < 1.0, waits
    before = sum(psutil.Process(process.pid).cpu_times()[:2])
    time.sleep(5)
    used = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
    assert used / 5 < 0.1, f"{used / 5:.0%} of a core while nothing happens"
