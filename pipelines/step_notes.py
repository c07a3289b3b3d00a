"""What steps say of themselves where each has a pod of its own: an object when one begins and one when it ends.

An object is there whole or not at all, and outlives its pod; a run's are in a folder named by its attempt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipelines.steps import STEPS
from slipway.object_path import ObjectPath
from slipway.pod import PIPELINES, Pod

_STATES = ("begun", "ended")


def folder_of(pod: Pod, attempt: str) -> ObjectPath:
    """Where the steps of an attempt write. Raises NotReady in a pod that is not given the object store."""
    return pod.objects(PIPELINES) / "runs" / attempt


def write_note(folder: ObjectPath, line: Mapping[str, Any]) -> None:
    """Raises OSError: a step of which nobody would hear must not work on."""
    (folder / f"{line['step']}-{line['state']}.json").write_bytes(json.dumps(line).encode())


def read_notes(folder: ObjectPath) -> list[dict[str, Any]]:
    """All lines so far, in the order of the graph. Raises OSError."""
    there = {each.name for each in folder.iterdir()}
    names = [f"{step}-{state}.json" for step in STEPS for state in _STATES]
    return [json.loads((folder / name).read_bytes()) for name in names if name in there]


def forget_notes(folder: ObjectPath) -> None:
    """Before an attempt begins: what is there is of another life of the ledger. Raises OSError."""
    for each in list(folder.iterdir()):
        each.unlink(missing_ok=True)
