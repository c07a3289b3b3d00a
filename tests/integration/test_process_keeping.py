"""supervisord for real, with processes that start in a moment: keeping, readiness, kills, revisions, stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from slipway.endpoints import socket_of
from slipway.environment import Environment
from slipway.errors import Conflict, NotReady
from slipway.ledger import open_ledger, releases, versions
from slipway.settings import ProcessSettings, Settings
from slipway.targets.local import lifecycle, processes
from slipway.targets.local.leftovers import find_leftovers
from slipway.targets.local.probes import Http
from slipway.targets.local.processes import Process
from slipway.targets.local.revisions import write_revision
from slipway.targets.local.status import read_processes
from slipway.targets.local.supervision import Supervisor
from slipway.targets.local.target import LocalTarget

pytestmark = pytest.mark.integration
SMALL = Path(__file__).with_name("small_process.py")


def small(environment: Environment, name: str, order: int, behaviour: str = "0") -> Process:
    socket = socket_of(environment, name)
    return Process(name, (sys.executable, str(SMALL), str(socket), behaviour), Http("/", socket=socket), order, 5)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """An environment whose own processes and revisions are small ones; whatever it started is ended."""
    file = tmp_path / "small.toml"
    file.write_text('name = "small"\n')
    settings = Settings(
        name="small", state_dir=tmp_path / "state", processes=ProcessSettings(start_timeout=timedelta(seconds=20))
    )
    environment = Environment(file, settings)
    monkeypatch.setattr(
        processes, "list_processes", lambda _: [small(environment, n, o) for n, o in (("a", 10), ("b", 20))]
    )
    monkeypatch.setattr(
        processes, "revision_process", lambda _, model, version: small(environment, f"revision-{model}-{version}", 40)
    )
    yield environment
    lifecycle.down(environment, say=lambda text: None)
    assert find_leftovers(environment) == []


def up(environment: Environment) -> bool:
    return lifecycle.up(environment, say=lambda text: None, report=lambda name, seconds: None)


def pids(environment: Environment) -> dict[str, int]:
    return {name: status.pid for name, status in Supervisor(environment).read_statuses().items()}


def release_first(environment: Environment, model: str, version: int) -> None:
    """Make this version the model's champion."""
    as_of = datetime(2024, 3, 1, tzinfo=UTC)
    ledger = open_ledger(environment)
    with ledger.transaction() as session:
        gate = {"verdict": "passed", "reasons": []}
        versions.add(session, model, version, digest="d" * 64, gate=gate, passed=True, as_of=as_of)
        releases.promote(session, model, version, epoch=0, actor="test", reason="first", as_of=as_of)
    ledger.close()


def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_a_second_up_changes_nothing(environment: Environment) -> None:
    assert up(environment)
    before, ports = pids(environment), (environment.state.run / "ports.json").read_text()
    assert not up(environment)
    assert pids(environment) == before
    assert (environment.state.run / "ports.json").read_text() == ports


def test_up_starts_again_what_was_stopped_by_hand(environment: Environment) -> None:
    up(environment)
    before = pids(environment)
    Supervisor(environment).stop("b")
    wait(lambda: pids(environment)["b"] == 0)
    assert up(environment)
    assert pids(environment)["a"] == before["a"]
    assert pids(environment)["b"] not in (0, before["b"])


def test_a_killed_process_comes_back_and_is_counted(environment: Environment) -> None:
    up(environment)
    before = pids(environment)
    os.kill(before["a"], signal.SIGKILL)
    wait(lambda: pids(environment)["a"] not in (0, before["a"]))
    wait(lambda: {p.process: p.state for p in read_processes(environment)} == {"a": "ready", "b": "ready"})
    assert {p.process: p.restarts for p in read_processes(environment)} == {"a": 1, "b": 0}


def test_nothing_outlives_a_killed_supervisord_and_the_next_up_recovers(environment: Environment) -> None:
    up(environment)
    LocalTarget(environment).apply_revision("m", 1)
    before = pids(environment)
    os.kill(Supervisor(environment).pid(), signal.SIGKILL)
    wait(lambda: not any(psutil.pid_exists(pid) for pid in before.values()), 10)
    wait(lambda: find_leftovers(environment) == [], 10)
    assert up(environment)
    assert pids(environment).keys() == before.keys()
    wait(lambda: LocalTarget(environment).list_revisions("m") == {1: True})


def test_a_process_that_ignores_the_death_of_supervisord_is_ended_by_the_next_up(environment: Environment) -> None:
    up(environment)
    command = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    marked = {processes.MARKER: str(environment.state.root.resolve())}
    with subprocess.Popen([sys.executable, "-c", command], env=marked, stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout
        stubborn.stdout.readline()
        os.kill(Supervisor(environment).pid(), signal.SIGKILL)
        wait(lambda: not Supervisor(environment).is_running())
        waiter = threading.Thread(target=stubborn.wait)
        waiter.start()  # or it would stay as a zombie of this test
        assert up(environment)
        # It would sleep for ten minutes. How it ended is told to one who waits only, and `up` may have been first.
        waiter.join(5)
        assert not waiter.is_alive()


def test_a_process_that_cannot_start_fails_up_with_its_last_words_and_is_undone(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        processes, "list_processes", lambda _: [small(environment, "a", 10), small(environment, "b", 20, "fail")]
    )
    with pytest.raises(NotReady, match="b: ended again and again") as caught:
        up(environment)
    assert "the reason why it cannot start" in str(caught.value)
    assert find_leftovers(environment) == []


def test_a_challenger_that_cannot_start_does_not_keep_the_platform_from_starting(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def revision(_: Environment, model: str, version: int) -> Process:
        return small(environment, f"revision-{model}-{version}", 40, "fail" if version == 2 else "0")

    monkeypatch.setattr(processes, "revision_process", revision)
    environment.state.prepare()
    release_first(environment, "m", 1)
    write_revision(environment, revision(environment, "m", 2))
    assert up(environment)
    assert LocalTarget(environment).list_revisions("m") == {1: True, 2: False}


def test_a_champion_that_cannot_start_fails_up(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    def revision(_: Environment, model: str, version: int) -> Process:
        return small(environment, f"revision-{model}-{version}", 40, "fail")

    monkeypatch.setattr(processes, "revision_process", revision)
    environment.state.prepare()
    release_first(environment, "m", 1)
    with pytest.raises(NotReady, match="revision-m-1: ended again and again"):
        up(environment)


def test_running_out_of_time_is_a_failure(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "list_processes", lambda _: [small(environment, "slow", 10, "600")])
    settings = environment.settings.model_copy(
        update={"processes": ProcessSettings(start_timeout=timedelta(seconds=2))}
    )
    with pytest.raises(NotReady, match="slow: not ready within 2s"):
        up(Environment(environment.file, settings))


def test_two_commands_at_once_are_told_apart(environment: Environment) -> None:
    environment.state.prepare()
    with lifecycle._alone(environment), pytest.raises(Conflict, match="being started or stopped"):
        up(environment)


def test_down_keeps_the_data_and_works_when_nothing_runs(environment: Environment) -> None:
    assert not lifecycle.down(environment, say=lambda text: None)
    up(environment)
    (environment.state.events / "precious").write_text("data")
    assert lifecycle.down(environment, say=lambda text: None)
    assert not lifecycle.down(environment, say=lambda text: None)
    assert (environment.state.events / "precious").read_text() == "data"
    assert not environment.state.sockets.exists()
    assert find_leftovers(environment) == []


def test_down_ends_a_supervisord_whose_socket_is_gone(environment: Environment) -> None:
    up(environment)
    socket_of(environment, "supervisor").unlink()
    with pytest.raises(Exception, match="does not answer"):
        up(environment)
    assert lifecycle.down(environment, say=lambda text: None)
    assert find_leftovers(environment) == []


def test_later_processes_stop_first(environment: Environment) -> None:
    up(environment)
    lifecycle.down(environment, say=lambda text: None)
    lines = (environment.state.logs / "supervisord.log").read_text().splitlines()
    stopped = [line.partition("stopped: ")[2].split()[0] for line in lines if "stopped: " in line]
    assert stopped == ["b", "a"]


def test_applying_and_removing_a_revision_twice_is_the_same_as_once(environment: Environment) -> None:
    up(environment)
    target = LocalTarget(environment)
    for _ in range(2):
        target.apply_revision("m", 1)
    first = pids(environment)["revision-m-1"]
    target.apply_revision("m", 2)
    target.apply_revision("other", 1)
    assert target.list_revisions("m") == {1: True, 2: True}
    assert pids(environment)["revision-m-1"] == first
    for _ in range(2):
        target.remove_revision("m", 1)
    assert target.list_revisions("m") == {2: True}
    assert not psutil.pid_exists(first)


def test_a_removed_revision_can_be_applied_again(environment: Environment) -> None:
    up(environment)
    target = LocalTarget(environment)
    target.apply_revision("m", 1)
    target.remove_revision("m", 1)
    target.apply_revision("m", 1)
    assert target.list_revisions("m") == {1: True}


def test_revisions_that_ran_come_back_after_down_and_up(environment: Environment) -> None:
    up(environment)
    LocalTarget(environment).apply_revision("m", 3)
    lifecycle.down(environment, say=lambda text: None)
    assert LocalTarget(environment).list_revisions("m") == {3: False}
    up(environment)
    wait(lambda: LocalTarget(environment).list_revisions("m") == {3: True})


def test_revisions_applied_at_the_same_time_all_become_ready(environment: Environment) -> None:
    up(environment)
    target = LocalTarget(environment)
    threads = [threading.Thread(target=target.apply_revision, args=("m", version)) for version in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.list_revisions("m") == dict.fromkeys(range(1, 7), True)


def test_a_revision_that_does_not_start_is_not_ready(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    up(environment)
    monkeypatch.setattr(
        processes,
        "revision_process",
        lambda _, model, version: small(environment, f"revision-{model}-{version}", 40, "fail"),
    )
    with pytest.raises(NotReady, match="the reason why it cannot start"):
        LocalTarget(environment).apply_revision("m", 9)
    assert LocalTarget(environment).list_revisions("m") == {9: False}
    LocalTarget(environment).remove_revision("m", 9)
    assert LocalTarget(environment).list_revisions("m") == {}
