"""The Pulumi command line: the engine of both programs. Finds it, says what to do when it is not there or too old, and
runs it so that it can be stopped.

Downloads nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from pulumi.automation import CommandResult, PulumiCommand
from pulumi.automation.errors import create_command_error
from semver import VersionInfo

from infra.time_limit import wait_for
from slipway.errors import InvalidInput, Problem
from slipway.targets.local import lifeline

TOOLS = "SLIPWAY_TOOLS"
"""Folder with the command lines that `make tools` built; searched before the PATH."""

TESTED = VersionInfo(3, 259, 0)
OLDEST = VersionInfo(3, 250, 0)
_WITHIN = 30
_LAST_WORDS_WITHIN = 10.0
"""Seconds: a plugin that outlives its engine holds the pipes, and is not waited for."""

OnLine = Callable[[str], object]


class PulumiCli(PulumiCommand):
    """The Automation API's command, at a path of our choice instead of whatever the PATH has first."""

    def __init__(self, path: Path, version: VersionInfo) -> None:
        # The parent's constructor looks on the PATH alone, and starts what it finds there.
        self.command = str(path)
        self.version = version

    def run(
        self,
        args: Sequence[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: OnLine | None = None,
        on_error: OnLine | None = None,
    ) -> CommandResult:
        """Like the parent's, but it is ended cleanly by Ctrl-C and by the time limit, and never outlives us.

        It leads a session of its own: a terminal's Ctrl-C would reach it besides ours, and it takes a second one as
        `at once`. Raises CommandError; NotReady and KeyboardInterrupt once it has ended.
        """
        environment = {**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"}
        # Language hosts and the like lie beside the command line.
        environment["PATH"] = os.pathsep.join([str(Path(self.command).parent), environment.get("PATH", "")])
        process = subprocess.Popen(
            lifeline.tie([self.command, "--non-interactive", *args]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment,
            encoding="utf-8",
            start_new_session=True,
        )
        output, complaints = _Reader(process.stdout, on_output), _Reader(process.stderr, on_error)
        try:
            wait_for(process)
        finally:
            output.close()
            complaints.close()
        result = CommandResult(output.text, complaints.text, process.returncode)
        if process.returncode:
            raise create_command_error(result)
        return result


class _Reader:
    """Reads a pipe line by line, on a thread of its own."""

    def __init__(self, stream: IO[str] | None, tell: OnLine | None) -> None:
        self._lines: list[str] = []
        self._tell = tell
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return "\n".join(self._lines)

    def close(self) -> None:
        """Wait for the end, a while; what comes later is told to nobody."""
        self._thread.join(_LAST_WORDS_WITHIN)
        self._tell = None

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.append(line.rstrip())
                if tell := self._tell:
                    tell(line.rstrip())


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
