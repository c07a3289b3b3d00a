"""Reports of a cluster: monitors send theirs to the object store, and the pod that shows them fetches what is new.

A file is the same in both places, by its path below the Evidently workspace, and is never changed while it is there. On
a machine of one's own both are one folder, and nothing is sent or fetched.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from slipway import logs
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.object_path import walk_files
from slipway.pod import REPORTS

EVERY = 15.0
"""Seconds between two looks for new reports."""
DRAFTS = ".drafts"
"""Folder of the workspace that its page does not look at."""

_log = logs.get_logger(__name__)


def send(environment: Environment, file: Path) -> None:
    """Send a file of the workspace. Raises NotReady when this pod is not given the reports' credential, OSError."""
    if environment.pod is None:
        return
    name = str(file.relative_to(environment.state.reports))
    (environment.pod.objects(REPORTS) / name).write_bytes(file.read_bytes())


def withdraw(environment: Environment, file: Path) -> None:
    """Take back what was sent, if it is there still. Raises as `send` does."""
    if environment.pod is not None:
        name = str(file.relative_to(environment.state.reports))
        (environment.pod.objects(REPORTS) / name).unlink(missing_ok=True)


def fetch(environment: Environment) -> int:
    """Fetch what is not here yet, and drop reports that were withdrawn; returns how many files came.

    Raises as `send` does.
    """
    if environment.pod is None:
        return 0
    kept, workspace = environment.pod.objects(REPORTS), environment.state.reports
    found = {path.removeprefix(f"{kept}/") for path, _, _ in walk_files(kept)}
    for report in workspace.glob("*/snapshots/*.json"):
        if str(report.relative_to(workspace)) not in found:
            report.unlink()
    missing = [name for name in found if not (workspace / name).exists()]
    # The page reads a project as soon as its metadata are there; what belongs to it comes first.
    for name in sorted(missing, key=lambda name: (name.endswith("metadata.json"), name)):
        show(workspace, name, (kept / name).read_bytes())
    return len(missing)


def show(workspace: Path, name: str, content: bytes) -> None:
    """Put a file into a workspace that a page watches: it takes a file when its name appears, so never half of one."""
    target, draft = workspace / name, workspace / DRAFTS / f"{os.getpid()}.fetched"
    for folder in (target.parent, draft.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft.write_bytes(content)
    target.unlink(missing_ok=True)
    os.link(draft, target)
    draft.unlink()


def keep_fetching(environment: Environment) -> None:
    """Fetch now, and from now on in a thread that ends with the process; a store that is away is asked again."""
    if environment.pod is not None:
        _try(environment)
        threading.Thread(target=_follow, args=(environment,), daemon=True).start()


def _follow(environment: Environment) -> None:
    pause = threading.Event()
    while not pause.wait(EVERY):
        _try(environment)


def _try(environment: Environment) -> None:
    try:
        if fetched := fetch(environment):
            _log.info("reports_fetched", files=fetched)
    except (OSError, SlipwayError) as error:
        _log.warning("reports_not_fetched", reason=str(error))
