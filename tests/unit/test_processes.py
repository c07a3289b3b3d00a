"""What is written for supervisord, what each process is told, and how ports, logs and secrets are kept."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from slipway import logs
from slipway.endpoints import dashboard_url, gateway_url, ray_address, revision_socket
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady, Refused, SlipwayError
from slipway.files import write_atomically
from slipway.heartbeat import Heartbeat, read_beat
from slipway.settings import REPOSITORY, GatewaySettings, Settings
from slipway.targets.local import configuration, deletion, lifeline, ports, processes, revisions, tails
from slipway.targets.local.probes import Beats, Http
from slipway.targets.local.readiness import read_readiness
from slipway.targets.local.supervision import Status
from slipway.unix_sockets import LONGEST_PATH, bind_socket


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    file = tmp_path / "unit test.toml"
    file.write_text('name = "unit"\n')
    environment = Environment(file, Settings(name="unit", state_dir=tmp_path / "state of it"))
    environment.state.prepare()
    ports.keep_ports(environment)
    yield environment
    for path in sorted(environment.state.sockets.rglob("*"), reverse=True):
        path.unlink()
    environment.state.sockets.rmdir()


def parse(environment: Environment) -> dict[str, object]:
    """The written configuration as supervisord itself reads it: program name -> its configuration."""
    configuration.write_configuration(environment)
    options = ServerOptions()
    options.realize(["-c", str(configuration.configuration_file(environment))])
    return {group.name: group.process_configs[0] for group in options.process_group_configs}


def test_supervisord_reads_back_every_process_as_it_was_meant(environment: Environment) -> None:
    revisions.write_revision(environment, processes.revision_process(environment, "flight_delay", 7))
    programs = parse(environment)
    wanted = [*processes.list_processes(environment), processes.revision_process(environment, "flight_delay", 7)]
    assert programs.keys() == {process.name for process in wanted}
    for process in wanted:
        program = programs[process.name]
        command = shlex.split(program.command)
        assert command == lifeline.tie(process.command, parent=configuration.pid_file(environment))
        assert program.environment | dict(process.environment) == program.environment
        assert (program.priority, program.stopwaitsecs) == (process.order, process.stop_timeout)
        assert program.autorestart is not False
        assert program.stdout_logfile == str(environment.state.logs / f"{process.name}.log")


def test_every_process_is_told_its_environment_and_sends_no_telemetry(environment: Environment) -> None:
    configuration.write_configuration(environment)
    options = ServerOptions()
    options.realize(["-c", str(configuration.configuration_file(environment))])
    told = options.configroot.supervisord.environment
    assert told["SLIPWAY_ENVIRONMENT"] == str(environment.file)
    assert told["SLIPWAY_STATE"] == str(environment.state.root)
    assert told["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert told["RAY_AUTH_MODE"] == "token"
    assert (told["MLFLOW_DISABLE_TELEMETRY"], told["DO_NOT_TRACK"]) == ("true", "true")
    assert (told["RAY_USAGE_STATS_ENABLED"], told["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"]) == ("0", "false")


def test_no_configuration_file_holds_a_token_and_others_cannot_read_it(environment: Environment) -> None:
    from slipway.targets.local.lifecycle import make_secrets

    make_secrets(environment)
    configuration.write_configuration(environment)
    file = configuration.configuration_file(environment)
    secrets = [path.read_text().strip() for path in environment.state.secrets.rglob("*") if path.is_file()]
    assert [secret for secret in secrets if secret and secret in file.read_text()] == []
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("character", ['"', "%", " ;", " #", "\n"])
def test_a_path_that_supervisord_would_misread_is_refused(environment: Environment, character: str) -> None:
    settings = environment.settings.model_copy(update={"state_dir": environment.state.root / f"a{character}b"})
    odd = Environment(environment.file, settings)
    with pytest.raises(InvalidInput, match="quote"):
        configuration.render_program(odd, processes.revision_process(odd, "m", 1))


def test_stopping_order_shuts_the_controller_and_the_doors_before_what_is_behind_them(environment: Environment) -> None:
    order = {process.name: process.order for process in processes.list_processes(environment)}
    revision = processes.revision_process(environment, "m", 1).order
    assert order["controller"] > order["envoy"] > order["portal"] > revision > order["collector"] > order["mlflow"]


def test_ray_listens_on_loopback_with_its_files_in_a_short_private_folder(environment: Environment) -> None:
    (ray,) = [process for process in processes.list_processes(environment) if process.name == "ray"]
    options = dict(part.removeprefix("--").split("=", 1) for part in ray.command if "=" in part)
    assert options["node-ip-address"] == options["dashboard-host"] == "127.0.0.1"
    assert int(options["object-store-memory"]) >= 78_643_200
    assert Path(options["temp-dir"]).parent == environment.state.sockets
    assert environment.state.sockets.stat().st_mode & 0o077 == 0
    assert len(str(revision_socket(environment, "m" * 63, 99999))) <= LONGEST_PATH


# -- ports ------------------------------------------------------------------------------------------------------------


def test_ports_stay_the_same_and_differ_from_one_another(environment: Environment) -> None:
    first = ports.read_ports(environment)
    assert ports.keep_ports(environment) == first
    assert len(set(first.values())) == len(ports.NAMES)


def test_only_a_port_that_somebody_else_took_is_chosen_anew(environment: Environment) -> None:
    before = ports.read_ports(environment)
    with socket.socket() as other:
        other.bind(("127.0.0.1", before["registry"]))
        other.listen()
        after = ports.keep_ports(environment)
    assert after["registry"] != before["registry"]
    assert {name: port for name, port in after.items() if name != "registry"} == {
        name: port for name, port in before.items() if name != "registry"
    }


def test_a_wanted_gateway_port_that_is_taken_is_an_error_with_a_hint() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(SlipwayError, match=f"gateway.port: {taken} is taken"):
            ports.choose_ports(taken, {})


def test_addresses_need_a_first_start(tmp_path: Path) -> None:
    fresh = Environment(tmp_path / "f.toml", Settings(name="fresh", state_dir=tmp_path / "fresh"))
    with pytest.raises(NotReady, match="never started"):
        gateway_url(fresh)


def test_addresses_follow_tls_and_host(environment: Environment) -> None:
    port = ports.read_ports(environment)["gateway"]
    assert gateway_url(environment) == f"http://127.0.0.1:{port}"
    assert dashboard_url(environment, "mlflow") == f"http://mlflow.localhost:{port}"
    assert ray_address(environment).startswith("http://127.0.0.1:")
    tls = GatewaySettings(host="192.0.2.1", tls_certificate=Path("c"), tls_key=Path("k"))
    with_tls = Environment(environment.file, environment.settings.model_copy(update={"gateway": tls}))
    assert gateway_url(with_tls).startswith("https://")


# -- readiness --------------------------------------------------------------------------------------------------------


def serve_once(path: Path, status: int) -> threading.Thread:
    listener = bind_socket(path)

    def answer() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize(("status", "ready"), [(200, True), (302, True), (401, True), (404, False), (503, False)])
def test_ready_is_what_answers_well_or_asks_for_a_token(environment: Environment, status: int, ready: bool) -> None:
    path = environment.state.sockets / "probe.sock"
    thread = serve_once(path, status)
    assert Http("/", socket=path).is_ready(0) is ready
    thread.join()


def test_a_socket_that_nobody_listens_on_is_not_ready(environment: Environment) -> None:
    path = environment.state.sockets / "probe.sock"
    assert not Http("/", socket=path).is_ready(0)
    bind_socket(path).close()
    assert not Http("/", socket=path).is_ready(0)


def test_a_socket_is_private_whatever_the_umask(environment: Environment) -> None:
    before = os.umask(0)
    try:
        bind_socket(environment.state.sockets / "s.sock").close()
    finally:
        os.umask(before)
    assert (environment.state.sockets / "s.sock").stat().st_mode & 0o777 == 0o600


def test_a_beat_of_this_process_or_its_child_is_readiness_and_one_of_another_is_not(environment: Environment) -> None:
    probe = Beats(environment, "controller")
    assert not probe.is_ready(os.getpid())
    Heartbeat(environment, "controller").beat()
    assert probe.is_ready(os.getpid())
    assert probe.is_ready(os.getppid())
    assert not probe.is_ready(os.getpid() + 1)
    beat = read_beat(environment, "controller")
    assert beat
    assert beat.age < 60


def test_a_process_that_does_not_run_is_not_ready_even_if_its_socket_answers(environment: Environment) -> None:
    path = environment.state.sockets / "probe.sock"
    process = processes.Process("p", ("true",), Http("/", socket=path), 10)
    thread = serve_once(path, 200)
    assert read_readiness([process], {"p": Status("p", "STOPPED", 0, 0, "")}) == {"p": False}
    assert read_readiness([process], {"p": Status("p", "RUNNING", 1, 0, "")}) == {"p": True}
    thread.join()


# -- the lifeline -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="death signals are Linux's")
def test_a_command_ends_when_its_parent_is_killed() -> None:
    parent = (
        "import subprocess\n"
        "from slipway.targets.local.lifeline import tie\n"
        "p = subprocess.Popen(tie(['sleep', '600']))\n"
        "print(p.pid, flush=True)\n"
        "p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        command = Path(f"/proc/{child}/cmdline")
        deadline = time.monotonic() + 10
        while not command.read_text().startswith("sleep"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="death signals are Linux's")
@pytest.mark.parametrize("named", ["process id", "file", "file that is gone"])
def test_a_command_whose_parent_is_gone_before_it_begins_does_not_begin(tmp_path: Path, named: str) -> None:
    with subprocess.Popen(["true"]) as parent:
        parent.wait()
    file = tmp_path / "parent.pid"
    if named == "file":
        file.write_text(f"{parent.pid}\n")
    begun = tmp_path / "begun"
    done = subprocess.run(lifeline.tie(["touch", begun], parent.pid if named == "process id" else file), check=False)
    assert (done.returncode, begun.exists()) == (143, False)


def test_the_lifeline_keeps_the_exit_status() -> None:
    command = lifeline.tie([sys.executable, "-c", "raise SystemExit(7)"])
    assert subprocess.run(command, check=False).returncode == 7


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Standard error while the structured logs are on; the logging of the tests is put back afterwards."""
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("unit")
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_our_lines_and_those_of_libraries_are_json_with_the_process_name(log_lines: io.StringIO) -> None:
    logs.get_logger().info("promoted", model="flight_delay", version=3)
    logging.getLogger("some.library").warning("odd %s", "thing")
    ours, theirs = (json.loads(line) for line in log_lines.getvalue().splitlines())
    assert (ours["event"], ours["model"], ours["version"]) == ("promoted", "flight_delay", 3)
    assert (theirs["event"], theirs["level"]) == ("odd thing", "warning")
    assert {ours["process"], theirs["process"]} == {"unit"}


def test_secrets_never_reach_a_line(log_lines: io.StringIO) -> None:
    secret = "f4k3-s3cr3t-v4lu3"
    log = logs.get_logger()
    log.info("a", token=secret, nested={"password": secret, "list": [{"api_key": secret}]})
    log.info("b", headers={"Authorization": f"Bearer {secret}"}, url=f"http://h/login?code={secret}&x=1")
    log.info(f"Authorization: Bearer {secret}")
    logging.getLogger("httpx").warning("GET http://h/?token=%s", secret)
    try:
        raise RuntimeError(f"cannot log in with Bearer {secret}")
    except RuntimeError:
        log.exception("c")
    assert secret not in log_lines.getvalue()
    assert len(log_lines.getvalue().splitlines()) == 5


def test_what_only_names_a_secret_stays_readable(log_lines: io.StringIO) -> None:
    logs.get_logger().info("a", token_file="/secrets/tokens/read", prediction_id="p-1", token_role="read")
    line = json.loads(log_lines.getvalue())
    assert (line["token_file"], line["prediction_id"], line["token_role"]) == ("/secrets/tokens/read", "p-1", "read")


def test_following_a_log_survives_its_rotation(environment: Environment) -> None:
    file = environment.state.logs / "p.log"
    file.write_text("old\n")
    stream = tails.follow(environment, ["p"])
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(next(stream)[1] for _ in range(3)))
    reader.start()
    time.sleep(0.1)
    with file.open("a") as log:
        log.write("one\ntw")
        log.flush()
        time.sleep(0.4)
        log.write("o\n")
    time.sleep(0.5)
    file.rename(f"{file}.1")
    file.write_text("three\n")
    reader.join(10)
    assert found == ["one", "two", "three"]


def test_a_log_line_for_people_shows_the_event_and_the_cause() -> None:
    traceback = (
        "Traceback (most recent call last):\n  File x\nsqlite3.OperationalError: no such column: a\n\nx.Error: b"
    )
    line = json.dumps(
        {"timestamp": "T", "level": "error", "event": "Exception in ASGI application\n", "exception": traceback}
    )
    assert tails.shorten(line) == "T error Exception in ASGI application: sqlite3.OperationalError: no such column: a"
    assert len(tails.shorten("x" * 1000)) == 300


# -- files and data ---------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_content_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    write_atomically(file, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o600


def test_data_is_deleted_only_from_a_folder_that_is_surely_ours(environment: Environment) -> None:
    root = environment.state.root
    (root / "thesis.tex").write_text("years of work")
    with pytest.raises(Refused, match="thesis"):
        deletion.delete_data(environment)
    (root / "thesis.tex").unlink()
    deletion.delete_data(environment)
    assert not root.exists()


@pytest.mark.parametrize("precious", [REPOSITORY, Path.home(), Path("/")])
def test_a_folder_above_something_precious_is_never_deleted(environment: Environment, precious: Path) -> None:
    settings = environment.settings.model_copy(update={"state_dir": precious})
    with pytest.raises(Refused, match="holds"):
        deletion.check_deletable(Environment(environment.file, settings))


# -- make -------------------------------------------------------------------------------------------------------------


def test_make_prints_every_target_and_there_are_at_most_16() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony
    printed = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+) ", printed, re.MULTILINE)) == set(phony[1].split())
    assert len(phony[1].split()) <= 16
