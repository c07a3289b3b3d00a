"""Starts a command so that it does not outlive supervisord: `python -I -S lifeline.py COMMAND...`.

supervisord ends its children when it is told to stop, but `kill -9` gives it no chance, and its children would keep
their sockets and ports for ever. On Linux the kernel sends SIGTERM to the command when its parent is gone; the setting
survives `exec`, so that nothing of this module stays in memory. This is the one place that is Linux-only in keeping
processes. macOS was not run: there the command starts all the same, and what a killed supervisord leaves behind is
ended by the next `slipway up`.

Run as a script, not as a module: it imports nothing of Slipway and costs 20 ms.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when `parent`, its present parent, ends."""
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel was told
        sys.exit(143)


def main() -> None:
    parent = os.getppid()
    end_with_parent(parent)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 -- no shell is the point


if __name__ == "__main__":
    main()
