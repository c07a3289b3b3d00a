"""The ground that the story plays on: a run directory, an environment of its own, and the command line.

Whatever the story does to the platform goes through `Stage.run`, as a person would type it; while a command works, the
stage watches: it tells events as they appear in the ledger, samples memory, and gives each watcher its chance to act.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipelines.flight_delay.demo.evidence import describe_event
from pipelines.flight_delay.demo.facts import MemorySample
from pipelines.flight_delay.demo.memory import find_processes, measure_memory
from pipelines.flight_delay.demo.screen import Screen
from slipway.environment import VARIABLE, Environment, open_environment
from slipway.errors import NotReady, SlipwayError
from slipway.files import write_atomically
from slipway.ledger import Ledger, events, open_ledger, releases

Found = TypeVar("Found")
TICK = 0.5
SAMPLE_EVERY = 5.0
"""Seconds between two looks at memory: each costs some tens of milliseconds of the machine that is measured."""
LAST_LINES = 15
SETTINGS = """\
# The demonstration's own environment: its data below this folder, its ports beside any other platform's.
name = "demo"
target = "local"
state_dir = "{state}"

[clock]
source = "replay"
"""


class Missed(SlipwayError):
    """What an act asks for did not happen."""


def prepare_environment(folder: Path) -> Environment:
    """An empty run directory with its environment file; what an earlier run left there is stopped and removed."""
    file = folder / "demo.toml"
    if file.exists():
        with suppress(SlipwayError, OSError, subprocess.SubprocessError):
            stop_platform(file)
    end_processes(file)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file.write_text(SETTINGS.format(state=(folder / "state").as_posix()))
    os.environ[VARIABLE] = str(file)
    environment = open_environment(str(file))
    environment.state.prepare()
    # The replay draws its sample of flights by this key: a fixed one asks about the same flights in every run.
    write_atomically(environment.state.secrets / "replay_key", hashlib.sha256(b"demo").hexdigest())
    return environment


def stop_platform(file: Path) -> None:
    """`slipway down`, then whatever it left. Raises SlipwayError when processes were left."""
    done = subprocess.run(command(file, "down"), capture_output=True, text=True, timeout=120, check=False)
    left = end_processes(file)
    if done.returncode or left:
        shown = (done.stderr or done.stdout).strip() or "no message"
        raise SlipwayError(f"slipway down: exit {done.returncode}, {left} processes left: {shown}")


def end_processes(file: Path) -> int:
    """End every process that was told to work in this environment; how many there were."""
    left = find_processes(file)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(left, timeout=10)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    return len(left)


def command(file: Path, *arguments: str) -> list[str]:
    """What a person would type, with the program of this very environment."""
    return [str(Path(sys.executable).with_name("slipway")), "--env", str(file), *arguments]


@dataclass
class Stage:
    """One run of the demonstration."""

    environment: Environment
    model: str
    screen: Screen
    memory: list[MemorySample] = field(default_factory=list)
    watchers: list[Callable[[], None]] = field(default_factory=list)
    """Called on every tick."""
    failures: list[str] = field(default_factory=list)
    _told: int = 0
    _sampled: float = 0.0

    def __post_init__(self) -> None:
        self.ledger: Ledger = open_ledger(self.environment)
        self._commands = self.environment.file.parent / "commands"
        self._commands.mkdir(exist_ok=True)

    def run(self, *arguments: str, limit: float = 1800.0) -> str:
        """One `slipway` command, watched; its standard output. Raises SlipwayError with its last lines if it fails."""
        number = len(list(self._commands.glob("*.out"))) + 1
        out = self._commands / f"{number:02d}-{arguments[0]}.out"
        with out.open("w") as output, out.with_suffix(".err").open("w") as errors:
            process = subprocess.Popen(
                command(self.environment.file, *arguments), stdout=output, stderr=errors, stdin=subprocess.DEVNULL
            )
            try:
                self.wait(lambda: process.poll() is not None, limit=limit, what=f"slipway {arguments[0]}")
            finally:
                if process.poll() is None:
                    process.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(20)
                    process.kill()
        if process.returncode:
            lines = (out.with_suffix(".err").read_text() or out.read_text()).strip().splitlines()[-LAST_LINES:]
            raise SlipwayError(f"slipway {' '.join(arguments)}: exit {process.returncode}\n" + "\n".join(lines))
        return out.read_text()

    def ask(self, *arguments: str) -> Any:
        """The facts that a command prints with --json."""
        return json.loads(self.run(*arguments, "--json"))

    def wait(self, condition: Callable[[], Found], *, limit: float, what: str) -> Found:
        """The first true answer of `condition`, asked on every tick. Raises NotReady after `limit` seconds."""
        until = time.monotonic() + limit
        while not (found := condition()):
            if time.monotonic() > until:
                raise NotReady(f"{what} did not come about within {limit:.0f} s")
            self.tick()
            time.sleep(TICK)
        return found

    def tick(self) -> None:
        """Look at the world once."""
        now = time.monotonic() - self.screen.begun
        if now - self._sampled >= SAMPLE_EVERY:
            self._sampled = now
            if sizes := measure_memory(self.environment.file):
                self.memory.append(MemorySample(second=now, programs=sizes))
        with self.ledger.read() as session:
            release = releases.read(session, self.model)
            told = events.read(session, self.model, 50)
        for event in told:
            if event.id > self._told and (words := describe_event(event)):
                self.screen.say(f"{event.as_of:%d %b %H:%M}  {words}")
            self._told = max(self._told, event.id)
        total = self.memory[-1].total / 1024**3 if self.memory else 0.0
        self.screen.show(self.now(), release.champion if release else None, total)
        for watcher in list(self.watchers):
            watcher()

    def now(self) -> datetime | None:
        """Event time; None before the replay's first day."""
        try:
            return self.environment.clock.as_of()
        except SlipwayError:
            return None

    def find_program(self, program: str) -> psutil.Process | None:
        """The process that supervisord keeps under this name; None while there is none."""
        for process in find_processes(self.environment.file):
            with suppress(psutil.Error):
                if f"slipway.{program}" in process.cmdline():
                    return process
        return None

    def kill_program(self, program: str) -> int:
        """`kill -9`; the process id that is no more. Raises NotReady when it does not run."""
        process = self.find_program(program)
        if process is None:
            raise NotReady(f"{program} does not run")
        process.send_signal(signal.SIGKILL)
        return int(process.pid)
