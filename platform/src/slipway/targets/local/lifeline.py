"""Starts a command so that it does not outlive its parent: `python -I -S lifeline.py PARENT COMMAND...`.

supervisord ends its children when it is told to stop, but `kill -9` gives it no chance, and its children would keep
their sockets and ports for ever. On Linux the kernel sends SIGTERM to the command when its parent is gone; the setting
survives `exec`, so that nothing of this module stays in memory. This is the one place that is Linux-only in keeping
processes. macOS was not run: there the command starts all the same, and what a killed supervisord leaves behind is
ended by the next `slipway up`.

The parent is named, by its process id or by the file that holds it: one that is gone before this script has begun could
not be told from the process that takes its orphans in.

Run as a script, not as a module: it imports nothing of Slipway and costs 20 ms.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_GONE = 128 + signal.SIGTERM
"""The exit status of a command whose parent was gone before it began."""


def tie(command: Sequence[str | Path], parent: int | Path | None = None) -> list[str]:
    """The command that runs `command` until `parent` ends: a process id, a file that holds it, or else this process."""
    named = os.getpid() if parent is None else parent
    return [sys.executable, "-I", "-S", __file__, str(named), *map(str, command)]


def end_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when `parent`, its present parent, ends."""
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel was told
        sys.exit(_GONE)


def read_parent(named: str) -> int:
    """The process id that is meant; 0, which no parent has, when the file is gone or was not written whole."""
    if named.isdigit():
        return int(named)
    try:
        return int(Path(named).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def main() -> None:
    end_with_parent(read_parent(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 -- no shell is the point


if __name__ == "__main__":
    main()
