"""The whole platform for real: everything ready on loopback, killed, brought back, backed up while it runs, stopped."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from slipway.endpoints import dashboard_url, gateway_url, ray_address, registry_url, socket_of
from slipway.environment import Environment, open_environment
from slipway.ledger import open_ledger, releases
from slipway.settings import Settings
from slipway.targets.local.leftovers import find_leftovers
from slipway.targets.local.supervision import Supervisor

pytestmark = pytest.mark.integration
OWN = {"mlflow", "reports", "ray", "collector", "monitor", "runner", "portal", "envoy", "controller"}


def slipway(environment: Environment, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("slipway")), "--env", str(environment.file), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


def status(environment: Environment) -> dict[str, dict[str, object]]:
    facts = json.loads(slipway(environment, "status", "--json", check=False).stdout)
    return {row["process"]: row for row in facts["processes"]}


def wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.5)


def is_loopback(ip: str) -> bool:
    """Also for an IPv4 address that an IPv6 socket shows as `::ffff:127.0.0.1`."""
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def all_ready(environment: Environment) -> bool:
    return all(row["state"] == "ready" for row in status(environment).values())


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The running platform, brought up by the command that people type."""
    folder = tmp_path_factory.mktemp("platform")
    file = folder / "whole.toml"
    file.write_text(f'name = "whole"\nstate_dir = "{folder / "state"}"\n[processes]\nstart_timeout = "4m"\n')
    environment = open_environment(str(file))
    try:
        printed = slipway(environment, "up").stdout
        assert gateway_url(environment) in printed
        assert str(environment.state.secrets / "tokens") in printed
        yield environment
    finally:
        slipway(environment, "down")
        assert find_leftovers(environment) == []


def test_every_process_is_ready_and_a_second_up_changes_nothing(platform: Environment) -> None:
    before = {name: row["pid"] for name, row in status(platform).items()}
    assert before.keys() == OWN
    assert "nothing was changed" in slipway(platform, "up").stdout
    assert {name: row["pid"] for name, row in status(platform).items()} == before


def test_the_idle_platform_takes_less_than_3_gib(platform: Environment) -> None:
    assert sum(int(str(row["memory_mib"])) for row in status(platform).values()) < 3072


def test_nothing_listens_on_anything_but_loopback(platform: Environment) -> None:
    processes = find_leftovers(platform)
    listening = {
        (connection.laddr.ip, process.name())
        for process in processes
        for connection in process.connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert {(ip, name) for ip, name in listening if not is_loopback(ip)} == set()
    assert {path.stat().st_mode & 0o777 for path in platform.state.sockets.glob("*.sock")} == {0o600}


def test_no_part_answers_without_a_token(platform: Environment) -> None:
    import httpx

    for url in (
        f"{registry_url(platform)}/api/2.0/mlflow/experiments/search?max_results=1",
        f"{gateway_url(platform)}/v2/models/flight_delay/infer",
        f"{ray_address(platform)}/api/jobs/",
        *(f"{dashboard_url(platform, name)}/" for name in ("portal", "mlflow", "reports", "ray")),
    ):
        # `<name>.localhost` is for browsers; here the name goes into the Host header only.
        host = httpx.URL(url).netloc.decode()
        local = httpx.URL(url).copy_with(host="127.0.0.1")
        answer = httpx.get(local, headers={"Host": host}, follow_redirects=False)
        assert answer.status_code in (401, 403), f"{url}: {answer.status_code}"


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_killed_process_comes_back_ready(platform: Environment, name: str) -> None:
    before = Supervisor(platform).read_statuses()[name].pid
    os.kill(before, signal.SIGKILL)
    wait(lambda: Supervisor(platform).read_statuses()[name].pid not in (0, before), 30)
    wait(lambda: status(platform)[name]["state"] == "ready", 180)


def test_a_backup_of_the_running_platform_is_whole(platform: Environment, tmp_path: Path) -> None:
    written = json.loads(slipway(platform, "backup", str(tmp_path / "b.tar.gz"), "--json").stdout)
    file = tmp_path / "elsewhere.toml"
    file.write_text(f'name = "elsewhere"\nstate_dir = "{tmp_path / "elsewhere"}"\n')
    elsewhere = open_environment(str(file))
    slipway(elsewhere, "restore", str(tmp_path / "b.tar.gz"), "--signer", written["signer"])
    with open_ledger(elsewhere).read() as session:
        assert releases.list_all(session) == []
    assert (elsewhere.state.registry / "mlflow.db").exists()


def test_nothing_outlives_a_killed_supervisord_and_the_next_up_recovers(platform: Environment) -> None:
    os.kill(Supervisor(platform).pid(), signal.SIGKILL)
    # Ray's workers notice that their raylet is gone by themselves; all others get a signal from the kernel.
    wait(lambda: find_leftovers(platform) == [], 60)
    assert slipway(platform, "status", check=False).returncode == 1
    slipway(platform, "up")
    assert all_ready(platform)


def test_down_leaves_no_process_and_keeps_the_data_and_the_addresses(platform: Environment) -> None:
    address = gateway_url(platform)
    assert "is down" in slipway(platform, "down").stdout
    assert find_leftovers(platform) == []
    assert not socket_of(platform, "supervisor").exists()
    assert (platform.state.root / "ledger.db").exists()
    assert "was not running" in slipway(platform, "down").stdout
    assert gateway_url(platform) == address


def test_commands_speak_clearly_before_the_first_start(tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    file.write_text(f'name = "new"\nstate_dir = "{tmp_path / "state"}"\n')
    environment = Environment(file, Settings(name="new", state_dir=tmp_path / "state"))
    result = slipway(environment, "status", check=False)
    assert result.returncode == 1
    assert "hint: slipway up" in result.stderr
    assert slipway(environment, "logs", "nobody", check=False).returncode == 2
    assert slipway(environment, "restore", str(tmp_path / "nothing"), check=False).returncode == 2
    assert "was not running" in slipway(environment, "down").stdout
