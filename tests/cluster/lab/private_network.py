"""A network of its own for what listens on fixed ports or stands for pods, without a container and without root.

A namespace of the kernel holds nothing but loopback, and every address of pods is on it. Two sides are joined by
relays: the API server is reached from inside at its own address, and ports inside from outside by socket files.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.lab import relay
from tests.cluster.lab.processes import LabError, Process, wait_until

READY_WITHIN = 20.0
_ASK_WITHIN = 10
_PRIVATE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
_OWN_ROOT = """
set -eu
root={root}
mount -t tmpfs tmpfs "$root"
for folder in /*; do
  if [ -d "$folder" ] && [ ! -L "$folder" ]; then mkdir -p "$root$folder" && mount --rbind "$folder" "$root$folder"
  elif [ -L "$folder" ]; then cp -P "$folder" "$root$folder"; fi
done
{mounts}
exec chroot "$root" {command}
"""


class PrivateNetwork:
    """Started and stopped once; its files lie in `folder`."""

    def __init__(
        self,
        folder: Path,
        addresses: str,
        *,
        reach: Sequence[str] = (),
        join: Mapping[str, Path] | None = None,
        publish: Mapping[str, str] | None = None,
    ) -> None:
        """`addresses`: the network that is on loopback inside. `reach`: `address:port` outside that inside is the same.

        `publish`: name -> `address:port` inside. `join`: `address:port` inside -> what another network published.
        Raises LabError where this user may make no network namespace.
        """
        _require_namespaces()
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._sockets = {name: folder / f"{name}.sock" for name in publish or {}}
        out = {address: folder / f"reach-{position}.sock" for position, address in enumerate(reach)}
        # Leads nowhere; once it is there, so is the network.
        made = folder / "made.sock"
        pairs = [f"unix:{made}=127.0.0.1:1"]
        pairs += [f"unix:{self._sockets[name]}={address}" for name, address in (publish or {}).items()]
        pairs += [f"{address}=unix:{file}" for address, file in {**out, **(join or {})}.items()]
        command = [sys.executable, "-I", relay.__file__]
        self._processes: list[Process] = []
        if out:
            outward = [f"unix:{file}={address}" for address, file in out.items()]
            self._processes.append(Process("relay-outside", [*command, *outward], folder))
        self._inside = Process("relay-inside", [*_PRIVATE, *command, "--addresses", addresses, *pairs], folder)
        self._processes.append(self._inside)
        try:
            files = [made, *self._sockets.values(), *out.values()]
            wait_until("the relays listen", lambda: all(map(Path.exists, files)), READY_WITHIN, self._processes)
        except BaseException:
            self.stop()
            raise

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> Process:
        """A process inside. `mounts`: path -> folder or file that it sees there, and nobody else does."""
        inside = ["nsenter", f"--target={self._inside.pid}", "--user", "--net", "--preserve-credentials"]
        words = [str(part) for part in command]
        if mounts:
            root = self._folder / f"{name}.root"
            root.mkdir()
            script = _OWN_ROOT.format(
                root=shlex.quote(str(root)),
                mounts="\n".join(_mount(path, source) for path, source in mounts.items()),
                command=shlex.join(words),
            )
            words = ["unshare", "--mount", "sh", "-c", script]
        process = Process(name, [*inside, *words], self._folder, environment)
        self._processes.append(process)
        return process

    @property
    def pid(self) -> int:
        """Of a process that is there as long as the network is, with mounts of its own."""
        return self._inside.pid

    def socket(self, name: str) -> Path:
        """Where a published port is reached."""
        return self._sockets[name]

    def stop(self) -> None:
        """Ends what it started, last started first."""
        while self._processes:
            self._processes.pop().stop()


def _mount(path: str, source: Path) -> str:
    """Bind `source` at a path of the own root. Where the machine has no such folder, one is made, in memory only."""
    target = f'"$root"{shlex.quote(path)}'
    lines = []
    if not Path(path).exists():
        parent = next(each for each in Path(path).parents if each.exists())
        if parent != Path("/"):
            lines.append(f'mount -t tmpfs tmpfs "$root"{shlex.quote(str(parent))}')
        lines.append(f"mkdir -p {target}")
    return "\n".join([*lines, f"mount --bind {shlex.quote(str(source))} {target}"])


def _require_namespaces() -> None:
    """Before anything is started: what is missing, and how it is had."""
    for program in ("unshare", "nsenter"):
        if not shutil.which(program):
            raise LabError(f"{program} is not on the PATH: apt-get install util-linux")
    done = subprocess.run(
        [*_PRIVATE, "true"], capture_output=True, text=True, timeout=_ASK_WITHIN, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise LabError(
            f"this user may make no network namespace ({done.stderr.strip()}), and Envoy Gateway and the object store, "
            "whose ports are fixed, get one each: run as root (in a container: --privileged), or allow user "
            "namespaces: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=1000"
        )
