"""Pods as processes that see what their containers would: own files, own network, no file of this machine to change.

A pod's command, arguments, variables, ports and paths are those that the program declares. Its root has the machine's
programs and libraries for an image's, read-only; what the pod mounts writable is as large as it was declared. It runs
as root of a user namespace, not as the pod's user. No image is pulled.
"""

from __future__ import annotations

import base64
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.quantity import parse_quantity
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.processes import Process, wait_until

Object = dict[str, Any]

_MOUNTED_WITHIN = 20.0
_PROGRAMS = "/programs"
_ROOT = """
set -eu
root={root}
mount -t tmpfs tmpfs "$root"
mkdir -p "$root/proc" "$root/dev" "$root/etc"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder in /usr /bin /sbin /lib /lib64; do
  if [ -L "$folder" ]; then cp -P "$folder" "$root$folder"
  elif [ -d "$folder" ]; then mkdir "$root$folder" && mount --bind -o ro "$folder" "$root$folder"; fi
done
{mounts}
mount -o remount,ro "$root"
exec chroot "$root" env -i {command}
"""


class SealedPods:
    """The pods of one network. `programs` are what their images have besides a shell; `files` too, by path."""

    def __init__(
        self, folder: Path, network: PrivateNetwork, programs: Sequence[Path], files: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(mode=0o700)
        self._folder, self._network, self._programs = folder, network, programs
        self._hosts = folder / "hosts"
        self._files = {"/etc/hosts": self._hosts}
        for path, text in (files or {}).items():
            self._files[path] = folder / path.strip("/").replace("/", ".")
            self._files[path].write_text(text)
        self.resolve({})

    def resolve(self, addresses: Mapping[str, str]) -> None:
        """From now on these names, and no others, are known by DNS. A running pod sees it within seconds."""
        # In the same file: it is mounted where pods read it.
        self._hosts.write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))

    def make_volume(self, name: str, size: str) -> Path:
        """An empty disk of this size (`10Gi`), that outlives the pods which mount it; in memory."""
        volume = self._folder / f"volume-{name}"
        volume.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={int(parse_quantity(size))}", "tmpfs", str(volume)]
        made = self._network.start(f"make-{volume.name}", [*self._beside(), *mount])
        wait_until(f"{volume.name} is there", lambda: made.exit_code is not None, _MOUNTED_WITHIN)
        assert made.exit_code == 0, made.read_log()
        return volume

    def start(
        self,
        name: str,
        workload: Object,
        read_secret: Callable[[str], Mapping[str, str]],
        claims: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """The one container of a Deployment or a Job. `read_secret` gives a Secret's data by name, in base64.

        `claims`: volumes by the claim's name. `environment` is added to what the pod is told.
        """
        spec = workload["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        place = self._folder / name
        shutil.rmtree(place, ignore_errors=True)
        (place / "root").mkdir(parents=True)
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        lines = [_bind(path, file) for path, file in self._files.items()]
        lines += [_bind(f"{_PROGRAMS}/{program.name}", program) for program in self._programs]
        for mount in container["volumeMounts"]:
            path, volume = mount["mountPath"], volumes[mount["name"]]
            if "emptyDir" in volume:
                size = int(parse_quantity(volume["emptyDir"]["sizeLimit"]))
                lines.append(f'mkdir -p "$root{path}" && mount -t tmpfs -o size={size} tmpfs "$root{path}"')
            elif "secret" in volume:
                source = place / mount["name"]
                write_secret(source, volume["secret"], read_secret)
                lines.append(_bind(path, source))
            else:
                source = (claims or {})[volume["persistentVolumeClaim"]["claimName"]]
                lines.append(_bind(path, source, "rw"))
        told = {each["name"]: each["value"] for each in container.get("env") or ()} | dict(environment or {})
        told = {"PATH": f"{_PROGRAMS}:/usr/bin:/bin", "HOME": "/"} | told
        words = [f"{key}={value}" for key, value in told.items()]
        words += [*container["command"], *container.get("args", [])]
        script = _ROOT.format(root=shlex.quote(str(place / "root")), mounts="\n".join(lines), command=shlex.join(words))
        return self._network.start(name, [*self._beside(), "unshare", "--mount", "sh", "-c", script])

    def mounted(self, name: str, volume: str) -> Path:
        """The folder of a Secret that a pod has mounted, for whoever renews it."""
        return self._folder / name / volume

    def _beside(self) -> list[str]:
        """Where volumes are seen."""
        return ["nsenter", f"--target={self._network.pid}", "--mount"]


def write_secret(folder: Path, secret: Object, read_secret: Callable[[str], Mapping[str, str]]) -> None:
    """As the kubelet lays it out, or renews it: files are links into a folder that is replaced as a whole."""
    folder.mkdir(exist_ok=True)
    data = folder / f"..{len(list(folder.iterdir()))}"
    data.mkdir()
    content = read_secret(secret["secretName"])
    for key in [item["key"] for item in secret.get("items") or ()] or content:
        (data / key).write_bytes(base64.b64decode(content[key]))
        (data / key).chmod(secret["defaultMode"])
        if not (folder / key).is_symlink():
            (folder / key).symlink_to(Path("..data") / key)
    fresh = folder / "..fresh"
    fresh.symlink_to(data.name)
    fresh.replace(folder / "..data")


def _bind(path: str, source: Path, mode: str = "ro") -> str:
    target = f'"$root"{shlex.quote(path)}'
    make = (
        f"mkdir -p {target}"
        if source.is_dir()
        else f'mkdir -p "$root"{shlex.quote(str(Path(path).parent))} && : > {target}'
    )
    return f"{make} && mount --bind -o {mode} {shlex.quote(str(source.resolve()))} {target}"
