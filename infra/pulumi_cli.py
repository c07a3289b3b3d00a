"""The Pulumi command line: the engine of both programs. Finds it and says what to do when it is not there or too old.

Downloads nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from pulumi.automation import PulumiCommand
from semver import VersionInfo

from slipway.errors import InvalidInput, Problem

TOOLS = "SLIPWAY_TOOLS"
"""Folder with the command lines that `make tools` built; searched before the PATH."""

TESTED = VersionInfo(3, 259, 0)
OLDEST = VersionInfo(3, 250, 0)
_WITHIN = 30


class PulumiCli(PulumiCommand):
    """The Automation API's command, at a path of our choice instead of whatever the PATH has first."""

    def __init__(self, path: Path, version: VersionInfo) -> None:
        # The parent's constructor looks on the PATH alone, and starts what it finds there.
        self.command = str(path)
        self.version = version


def find_cli() -> PulumiCli:
    """The command line in the folder of tools or on the PATH. Raises InvalidInput: missing, too old, or too new."""
    folder = os.environ.get(TOOLS)
    path = shutil.which("pulumi", path=folder) if folder else None
    built_here = path is not None
    path = path or shutil.which("pulumi")
    if path is None:
        raise InvalidInput(Problem("pulumi", "the Pulumi command line is not installed", _remedy()))
    answer = _ask_version(path)
    if not answer and built_here:
        # A build from the module does not say its version; the folder of tools holds only what go.sum pins.
        return PulumiCli(Path(path).resolve(), TESTED)
    try:
        version = VersionInfo.parse(answer.removeprefix("v"))
    except ValueError:
        said = f"says {answer[:40]!r} as its version" if answer else "does not say its version"
        raise InvalidInput(Problem("pulumi", f"{path} {said}", _remedy())) from None
    if not OLDEST <= version < VersionInfo(OLDEST.major + 1):
        raise InvalidInput(Problem("pulumi", f"{path} is version {version}; {OLDEST} or newer is needed", _remedy()))
    return PulumiCli(Path(path), version)


def _ask_version(path: str) -> str:
    environment = os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        done = subprocess.run(
            [path, "version"], capture_output=True, text=True, timeout=_WITHIN, env=environment, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidInput(Problem("pulumi", f"{path} does not run: {error}", _remedy())) from error
    return done.stdout.strip()


def _remedy() -> str:
    return f"install Pulumi {TESTED} (https://www.pulumi.com/docs/install/), or `make tools` and set {TOOLS}"
