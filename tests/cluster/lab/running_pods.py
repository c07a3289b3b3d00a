"""Runs a pod's program for real, on this machine, and says so as its node would: status, log, end.

kwok has already said that the pod runs; here its command does, with the pod's own arguments and variables, except for
those that name files which only a container has. Logs are served where the API server asks nodes for them.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.lab.certificates import Authority
from tests.cluster.lab.control_plane import ControlPlane

Object = dict[str, Any]


class RunningPods:
    """What some nodes run; `node` is one that kwok plays."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._control_plane, self._folder = control_plane, folder
        pair = Authority(folder / "pki", "node").sign("node", hosts=["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        logs = folder

        class Node(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, _, namespace, pod, *_ = self.path.split("/")
                file = logs / f"{namespace}.{pod}.log"
                body = file.read_bytes() if file.exists() else b""
                self.send_response(200 if file.exists() else 404)
                self.send_header("content-type", "text/plain")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Its own log is enough."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Node)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def serve_logs_of(self, node: str) -> None:
        """From now on the API server asks here for the logs of this node's pods."""
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
        }
        self._patch("node", node, "", {"status": status})

    def run(self, pod: Object, instead: Mapping[str, str], *, within: float) -> int:
        """Start the pod's one container's command and wait for its end, which becomes the pod's; its exit code."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        (container,) = pod["spec"]["containers"]
        told = {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
        variables = {**os.environ, **told, **instead}
        program, *arguments = [*container["command"], *container.get("args", [])]
        assert program == "python"
        with (self._folder / f"{namespace}.{name}.log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, *arguments], env=variables, stdout=log, stderr=log, timeout=within, check=False
            )
        self.end(pod, done.returncode)
        return done.returncode

    def end(self, pod: Object, code: int) -> None:
        """Say that the pod has ended."""
        phase = "Failed" if code else "Succeeded"
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self._patch("pod", name, namespace, {"status": {"phase": phase}})

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _patch(self, kind: str, name: str, namespace: str, change: Object) -> None:
        place = ("-n", namespace) if namespace else ()
        self._control_plane.kubectl(
            *place, "patch", kind, name, "--subresource=status", "--type=merge", f"--patch={json.dumps(change)}"
        )
