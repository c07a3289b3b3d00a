"""A pod as the infrastructure program declares it, run as a process of this machine: its command, variables and mounts.

The kubelet's part is done here: each Secret becomes a folder of links, scratch volumes become empty folders, and probes
are asked. Only paths, the port, and what the caller says are put in another place; no variable is added but PATH and
TMPDIR, so that a process which needs more than its pod is told does not come up.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

Object = dict[str, Any]
TEMPLATES = {
    "Deployment": lambda spec: spec["template"],
    "Job": lambda spec: spec["template"],
    "CronJob": lambda spec: spec["jobTemplate"]["spec"]["template"],
}


class DeclaredPod:
    """The first container of a workload; `with DeclaredPod(...) as pod: pod.wait_ready(60)`."""

    def __init__(
        self,
        folder: Path,
        workload: Object,
        read_secret: Callable[[str], Mapping[str, str]],
        *,
        replaced: Mapping[str, str],
        files: Mapping[str, str] | None = None,
    ) -> None:
        """`read_secret` gives a Secret's data by name, in base64. `replaced` texts are put in place of others in
        variables and files; `files` (`mount path/name`) are given other contents altogether.
        """
        self.folder = folder
        spec = TEMPLATES[workload["kind"]](workload["spec"])["spec"]
        self._container: Object = spec["containers"][0]
        self._volumes: dict[str, Object] = {volume["name"]: volume for volume in spec["volumes"]}
        self._mounts = {mount["mountPath"]: mount["name"] for mount in self._container["volumeMounts"]}
        self.port = _free_port()
        ports = self._container.get("ports", [])
        declared = {f"0.0.0.0:{each['containerPort']}": f"127.0.0.1:{self.port}" for each in ports}
        above = {str(Path(path).parent) for path in self._mounts} - {"/"}
        self._paths = {path: str(folder / path.lstrip("/")) for path in {*self._mounts, *above}} | declared
        self._replaced = replaced
        self._read_secret = read_secret
        self._files = files or {}
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DeclaredPod:
        for path, name in self._mounts.items():
            self._mount(path, self._volumes[name])
        env = {each["name"]: self._elsewhere(self._value(each)) for each in self._container.get("env", [])}
        env |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "TMPDIR": str(self.folder / "tmp")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(),
                env=env,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        process = self._started()
        # What it started ends with it, as in a container.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)

    def wait_ready(self, within: float) -> None:
        """Until its readiness probe succeeds. Raises AssertionError with what it has logged."""
        deadline = time.monotonic() + within
        while not self.asked(self._container["readinessProbe"]):
            assert self._started().poll() is None, f"it ended\n{self.said()}"
            assert time.monotonic() < deadline, f"not ready\n{self.said()}"
            time.sleep(0.2)

    def wait_done(self, within: float) -> None:
        """Until it has ended well, as a Job must."""
        assert self._started().wait(timeout=within) == 0, self.said()

    def stop(self, within: float) -> None:
        """As the kubelet does it; it must end by itself: uvicorn cleans up and then dies of the signal that it got."""
        self._started().terminate()
        assert self._started().wait(timeout=within) in (0, -signal.SIGTERM), self.said()

    def asked(self, probe: Object) -> bool:
        """What the kubelet would find."""
        if "exec" in probe:
            command = [self._elsewhere(word) for word in probe["exec"]["command"]]
            command[0] = sys.executable if command[0] == "python" else command[0]
            return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
        path = probe["httpGet"]["path"] if "httpGet" in probe else None
        try:
            if path is None:
                socket.create_connection(("127.0.0.1", self.port), timeout=3).close()
                return True
            scheme = (probe["httpGet"].get("scheme") or "HTTP").lower()
            address = f"{scheme}://127.0.0.1:{self.port}{path}"
            return 200 <= httpx.get(address, timeout=3, verify=_unverified(), trust_env=False).status_code < 400
        except (OSError, httpx.HTTPError):
            return False

    @property
    def liveness(self) -> Object:
        probe: Object = self._container["livenessProbe"]
        return probe

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-4000:]

    def _started(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def _command(self) -> list[str]:
        words = [self._elsewhere(word) for word in (*self._container["command"], *self._container.get("args", []))]
        return [sys.executable, *words[1:]] if words[0] == "python" else words

    def _value(self, variable: Object) -> str:
        if "value" in variable:
            value: str = variable["value"]
            return value
        source = variable["valueFrom"]["secretKeyRef"]
        return base64.b64decode(self._read_secret(source["name"])[source["key"]]).decode()

    def _elsewhere(self, text: str) -> str:
        # One pass, longest first, and before the others: what a text was replaced by may begin like another.
        known = "|".join(re.escape(path) for path in sorted(self._paths, key=len, reverse=True))
        text = re.sub(rf"(?<![^\"])({known})(?=$|[/\"])", lambda found: self._paths[found[1]], text)
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        return text

    def _mount(self, path: str, volume: Object) -> None:
        target = self.folder / path.lstrip("/")
        target.mkdir(parents=True)
        if "emptyDir" in volume or "persistentVolumeClaim" in volume:
            return
        # As the kubelet lays it out: files are links into a folder that is replaced as a whole.
        data = target / "..2026"
        data.mkdir()
        secret = volume["secret"]
        keys = [item["key"] for item in secret.get("items") or ()]
        for key in keys or self._read_secret(secret["secretName"]):
            content = self._files.get(f"{path}/{key}")
            if content is None:
                content = base64.b64decode(self._read_secret(secret["secretName"])[key]).decode()
            file = data / key
            file.write_text(self._elsewhere(content))
            file.chmod(secret.get("defaultMode", 0o644))
            (target / key).symlink_to(Path("..data") / key)
        (target / "..data").symlink_to(data.name)


def _unverified() -> ssl.SSLContext:
    """The kubelet asks by address and looks at no certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
