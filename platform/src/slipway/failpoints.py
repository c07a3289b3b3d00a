"""Named places at which a process can be made to kill itself, as by `kill -9`: how tests prove that it goes on.

Nothing happens unless a place is armed: by SLIPWAY_FAILPOINT in the environment of a new process, or by a file
`run/failpoint` that holds names, one a line, for one that runs already. Each arming kills once: the name is struck from
the file before, and for the variable a marker is left in the run folder, so that the restarted process goes on.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "SLIPWAY_FAILPOINT"

FAILPOINTS = (
    "intake.before_ledger",
    "intake.after_ledger",
    "rollout.pending.after_ledger",
    "rollout.starting.before_revision",
    "rollout.starting.after_revision",
    "rollout.starting.after_ledger",
    "traffic.before_gateway",
    "traffic.after_gateway",
    "rollout.look.before_ledger",
    "rollout.look.after_ledger",
    "rollout.promoting.before_ledger",
    "rollout.promoting.after_ledger",
    "rollout.promoting.after_traffic",
    "rollout.promoting.after_done",
    "rollout.abort.before_traffic",
    "rollout.abort.after_traffic",
    "rollout.abort.after_ledger",
    "revision.before_removal",
    "revision.after_removal",
    "trigger.before_ledger",
    "trigger.after_ledger",
    "trigger.after_closing",
)
"""Every place, in the order in which a life meets them."""

_folder: Path | None = None


def watch(run_folder: Path) -> None:
    """Let failpoints of this process be armed by files in this folder."""
    global _folder
    _folder = run_folder


def failpoint(name: str) -> None:
    """Die here, at once and without a word, if this place is armed."""
    if _folder is not None and _disarm(name, _folder):
        os.kill(os.getpid(), signal.SIGKILL)


def arm(run_folder: Path, *names: str) -> None:
    """Make whichever process of this environment comes to one of these places next die there, once for each.

    Replaces what was armed before. Raises ValueError for a place that does not exist.
    """
    unknown = [name for name in names if name not in FAILPOINTS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no failpoint; there are: {', '.join(FAILPOINTS)}")
    draft = run_folder / f"failpoint.{os.getpid()}"
    draft.write_text("\n".join(names))
    draft.replace(run_folder / "failpoint")


def _disarm(name: str, folder: Path) -> bool:
    """Whether `name` is armed; if so it is no longer."""
    if os.environ.get(VARIABLE) == name:
        try:
            os.close(os.open(folder / f"failpoint-hit-{name}", os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True
    try:
        armed = (folder / "failpoint").read_text().split()
    except FileNotFoundError:
        return False
    if name not in armed:
        return False
    arm(folder, *(other for other in armed if other != name))
    return True
