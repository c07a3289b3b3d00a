"""Which processes belong to the run, and how much memory they take together."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from slipway.environment import VARIABLE

PROGRAM = "SUPERVISOR_PROCESS_NAME"
"""Variable that supervisord gives to every program, and that its children inherit."""


def find_processes(environment_file: Path) -> list[psutil.Process]:
    """Every process of this user that was told to work in this environment; this one is not among them."""
    found = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
        if process.pid != os.getpid() and variables.get(VARIABLE) == str(environment_file):
            found.append(process)
    return found


def measure_memory(environment_file: Path) -> dict[str, int]:
    """Proportional memory in bytes by program, the present process as `story`. Empty where the system has no PSS."""
    sizes: dict[str, int] = {}
    for process in [*find_processes(environment_file), psutil.Process()]:
        try:
            program = _program_of(process)
            size = getattr(process.memory_full_info(), "pss", None)
        except psutil.Error:
            continue
        if size is None:
            return {}
        sizes[program] = sizes.get(program, 0) + int(size)
    return sizes


def _program_of(process: psutil.Process) -> str:
    if process.pid == os.getpid():
        return "story"
    words = process.cmdline()
    program = process.environ().get(PROGRAM)
    if program:
        return str(program)
    if any("supervisord" in word for word in words):
        return "supervisord"
    return "replay" if any("replay" in word for word in words) else "command line"
