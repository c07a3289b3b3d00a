"""The network in which Envoy Gateway, Envoy and the pods' stand-ins run: two at a time, and nothing leaks."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import pod_server
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.probes import ask_socket
from tests.cluster.lab.processes import LabError, wait_until

pytestmark = pytest.mark.cluster

PORT = 18000
"""The same in every network of these tests."""


@pytest.fixture
def outside() -> Iterator[str]:
    """`address:port` of a server on this machine."""

    class Greeter(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello from outside")

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_two_networks_have_the_same_port_each_and_this_machine_has_it_not(tmp_path: Path) -> None:
    networks = [
        PrivateNetwork(tmp_path / name, "10.244.0.0/16", publish={"pod": f"10.244.7.1:{PORT}"})
        for name in ("one", "two")
    ]
    try:
        for position, network in enumerate(networks):
            command = [sys.executable, "-I", pod_server.__file__, str(PORT), tmp_path / f"{position}.jsonl"]
            process = network.start("pods", command)
            file = network.socket("pod")
            wait_until("it answers", lambda file=file: ask_socket(file, f"/{file.parent.name}"), 20, [process])
        logs = [(tmp_path / f"{position}.jsonl").read_text() for position in range(2)]
        assert '"/one"' in logs[0]
        assert '"/two"' in logs[1]
        assert '"10.244.7.1"' in logs[1]
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
            pass
    finally:
        for network in networks:
            network.stop()


def test_what_is_outside_is_reached_at_its_own_address(tmp_path: Path, outside: str) -> None:
    network = PrivateNetwork(tmp_path / "network", "10.244.0.0/16", reach=[outside])
    try:
        said = tmp_path / "said"
        ask = (
            f"import urllib.request as r; open({str(said)!r}, 'w').write(r.urlopen('http://{outside}').read().decode())"
        )
        process = network.start("client", [sys.executable, "-c", ask], {"no_proxy": "127.0.0.1"})
        wait_until("it has asked", lambda: process.exit_code is not None, 20)
        assert said.read_text() == "hello from outside", process.read_log()
    finally:
        network.stop()


def test_a_process_sees_files_at_fixed_paths_and_the_machine_does_not(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "tls.crt").write_text("a certificate")
    network = PrivateNetwork(tmp_path / "network", "10.244.0.0/16")
    paths = ("/certificates-of-the-lab", "/var/lib/of-the-lab/deep")
    try:
        command = ["cat", *(f"{path}/tls.crt" for path in paths)]
        process = network.start("reader", command, mounts=dict.fromkeys(paths, tmp_path / "files"))
        wait_until("it has read", lambda: process.exit_code is not None, 20)
        assert process.read_log() == "a certificatea certificate"
        assert not any(Path(path).exists() for path in paths)
    finally:
        network.stop()


def test_whoever_may_make_no_namespace_is_told_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in (("unshare", "echo unshare: Operation not permitted >&2; exit 1"), ("nsenter", "exit 1")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    with pytest.raises(LabError, match=r"no network namespace \(unshare: Operation not permitted\).*run as root"):
        PrivateNetwork(tmp_path / "network", "10.244.0.0/16")
    assert not (tmp_path / "network").exists()
