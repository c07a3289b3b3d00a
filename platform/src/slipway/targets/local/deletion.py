"""Deleting an environment's data, with the checks that keep a wrong `state_dir` from deleting anything else."""

from __future__ import annotations

import shutil
from pathlib import Path

from slipway.environment import Environment
from slipway.errors import Refused
from slipway.settings import REPOSITORY
from slipway.targets.local.lifecycle import find_supervisord

_OURS = {"secrets", "run", "logs", "registry", "features", "events", "spool", "inference_log", "bundles", "pipelines",
         "reports", "ledger.db", "labels.db", "clock"}  # fmt: skip
"""What `State` puts into the folder."""


def check_deletable(environment: Environment) -> None:
    """Raises Refused unless the state folder is surely one: ours by its content, and above nothing that matters."""
    root = environment.state.root.resolve()
    for precious in (REPOSITORY, Path.home(), Path.cwd()):
        if precious.resolve().is_relative_to(root):
            raise Refused(f"state_dir: {root} holds {precious}", hint="set state_dir to a folder of its own")
    if not root.exists():
        return
    strangers = sorted(entry.name for entry in root.iterdir() if _is_strange(entry.name))
    if strangers:
        raise Refused(
            f"state_dir: {root} holds {', '.join(strangers[:5])}, which Slipway has not made",
            hint="move it elsewhere, or delete the folder yourself",
        )


def delete_data(environment: Environment) -> None:
    """Delete the state folder, secrets included. Raises Refused while the platform runs."""
    check_deletable(environment)
    if find_supervisord(environment):
        raise Refused(f"environment {environment.settings.name} is running", hint="slipway down")
    root = environment.state.root
    if root.exists():
        # Renamed first: a deletion that is cut leaves no half of an environment under its name.
        grave = root.with_name(f".{root.name}.deleted")
        shutil.rmtree(grave, ignore_errors=True)
        root.rename(grave)
        shutil.rmtree(grave)


def _is_strange(name: str) -> bool:
    stem = name.removesuffix("-wal").removesuffix("-shm").removesuffix("-journal")
    return stem not in _OURS and not name.startswith(".") and not stem.startswith(("ledger", "labels", "clock."))
