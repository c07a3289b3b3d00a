"""Runs that are stopped: in time, by Ctrl-C, and when they do not obey."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import time_limit
from infra.pulumi_cli import TESTED, PulumiCli
from slipway.errors import NotReady

WITHIN = 60.0
POLITE = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print('farewell', flush=True), sys.exit(0)))
print('at work', flush=True)
time.sleep(60)
"""
STUBBORN = POLITE.replace("(print('farewell', flush=True), sys.exit(0))", "None")


class Clock:
    """An hour has passed as soon as the run is at work; then time goes on by one second a look."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heard: list[str] = []

    def __call__(self) -> float:
        self.now += 1.0 if self.heard else 0.0
        return self.now

    def hear(self, line: str) -> None:
        self.heard.append(line)
        self.now += 3600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_limit, "monotonic", clock)
    return clock


def program(folder: Path, code: str) -> PulumiCli:
    """A command line that does what the code says, whatever it is asked for."""
    file = folder / "pulumi"
    file.write_text(f"#!{sys.executable}\n{code}")
    file.chmod(0o755)
    return PulumiCli(file, TESTED)


def run(cli: PulumiCli, folder: Path, hear: Callable[[str], object]) -> None:
    cli.run(["up"], str(folder), {}, hear, hear)


def test_a_run_out_of_time_is_asked_to_end_and_says_its_last_words(tmp_path: Path, clock: Clock) -> None:
    said: list[str] = []
    with time_limit.time_limit(600, said.append), pytest.raises(NotReady, match="not done within 10 min") as caught:
        run(program(tmp_path, POLITE), tmp_path, clock.hear)
    assert clock.heard == ["at work", "farewell"]
    assert "out of time" in said[-1]
    assert "run the same command again" in caught.value.hint


def test_a_run_that_does_not_obey_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(time_limit, "OBEYS_WITHIN", 0)
    said: list[str] = []
    with time_limit.time_limit(600, said.append), pytest.raises(NotReady):
        run(program(tmp_path, STUBBORN), tmp_path, clock.hear)
    assert len([line for line in said if "stopping" in line]) == 3  # asked twice, then not asked


def test_ctrl_c_is_handed_on_once_and_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.infra.test_time_limit import POLITE, program, run\n"
        "folder = Path(sys.argv[1])\n"
        "try: run(program(folder, POLITE), folder, lambda line: print(line, flush=True))\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=WITHIN)
    assert (rest, process.returncode) == ("farewell\n", 130)


def test_a_run_that_ends_by_itself_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []
    heard: list[str] = []
    with time_limit.time_limit(WITHIN, said.append):
        run(program(tmp_path, "print('done')"), tmp_path, heard.append)
    assert (heard, said) == (["done"], [])


def test_a_long_silence_is_broken(tmp_path: Path, clock: Clock) -> None:
    said: list[str] = []
    with time_limit.time_limit(7200, said.append):
        run(program(tmp_path, "import time; print('at work', flush=True); time.sleep(2)"), tmp_path, clock.hear)
    assert said == ["  ...        at work for 60 min, of at most 120 min"]
