"""The step cache: what a step made is kept under a key of everything that decides it, and is taken instead of running.

The key covers the step, the bytes of its input files, the code, the lock, and the facts that the step itself names
(the parts of the contract it reads, the data it looks at). Nothing is guessed from names or times of runs. An entry
appears whole, by rename; a step that names no facts is never cached.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from pipelines import provenance
from pipelines.task import Task, Values
from slipway.snapshots import digest_of

KEPT = 60
"""Entries that stay; the least recently used go first."""


def parts_of(task: Task, facts: Values) -> Values:
    """Everything that decides what the step makes."""
    return {
        "step": task.step,
        "facts": facts,
        "inputs": {name: digest_of(path) for name, path in sorted(task.inputs.items())},
        "outputs": sorted(task.outputs),
        "code": provenance.code_hash(task.run.model),
        "lock": provenance.lock_hash(),
    }


def key_of(task: Task, facts: Values) -> str:
    """sha256 over the parts."""
    return hashlib.sha256(json.dumps(parts_of(task, facts), sort_keys=True, default=str).encode()).hexdigest()


def run_or_reuse(task: Task, facts: Values | None, make: Callable[[Task], Values]) -> tuple[Values, bool]:
    """The step's values and whether they came from the cache; its output files are in place either way."""
    if facts is None:
        return make(task), False
    folder = task.environment.state.pipelines / "cache"
    entry = folder / key_of(task, facts)
    if (entry / "values.json").is_file():
        for name, path in task.outputs.items():
            _place(entry / name, path)
        os.utime(entry)
        values: Values = json.loads((entry / "values.json").read_text())
        return values, True
    values = make(task)
    _keep(task, entry, values, facts)
    _prune(folder)
    return values, False


def _keep(task: Task, entry: Path, values: Values, facts: Values) -> None:
    draft = entry.with_name(f".draft-{uuid.uuid4().hex}")
    draft.mkdir(parents=True, mode=0o700)
    try:
        for name, path in task.outputs.items():
            _place(path, draft / name)
        (draft / "values.json").write_text(json.dumps(values))
        # For people who ask why a step was not reused: compare two of these.
        (draft / "key.json").write_text(json.dumps(parts_of(task, facts), sort_keys=True, default=str, indent=1))
        if not entry.exists():
            draft.rename(entry)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _place(source: Path, target: Path) -> None:
    """Copies, not links: nobody who writes to one of the two may change the other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _prune(folder: Path) -> None:
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: e.stat().st_mtime)
    for entry in entries[:-KEPT]:
        shutil.rmtree(entry, ignore_errors=True)
