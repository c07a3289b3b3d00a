"""The lock that a run holds on the state, and what to do about one whose run is dead.

A lock is taken away only when its run was on this machine and is no more. Whether a run elsewhere is alive, nobody here
can tell.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.errors import InvalidInput, Problem

# How Pulumi names the owner: pkg/backend/diy/lock.go.
_OWNER = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<since>\S+)")


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"

    @property
    def is_dead(self) -> bool:
        """It ran on this machine, and no Pulumi has its process id now."""
        return self.host == socket.gethostname() and not _is_pulumi(self.pid)


def read_owners(message: str) -> list[Owner]:
    """From what Pulumi says of a locked state."""
    return [
        Owner(match["user"], match["host"], int(match["pid"]), match["since"]) for match in _OWNER.finditer(message)
    ]


def refusal(owners: Sequence[Owner], environment: str, project: str) -> InvalidInput:
    """What to tell when a lock stays. `environment`: as it is typed."""
    alive = "; ".join(str(owner) for owner in owners) or "another run"
    return InvalidInput(
        Problem(
            f"state of {project}",
            f"is locked by {alive}",
            "wait until that run has ended; if it is dead for sure: "
            f"python -m infra unlock --env {environment} --project {project}",
        )
    )


def _is_pulumi(pid: int) -> bool:
    process = Path("/proc", str(pid))
    if not Path("/proc/self").exists():
        return True  # a system without /proc does not tell: say that it is alive
    try:
        state = process.joinpath("stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and b"pulumi" in process.joinpath("cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return True
