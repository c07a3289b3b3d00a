"""Which processes belong to the run, and how much memory they take together."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from slipway.environment import VARIABLE

PROGRAM = "SUPERVISOR_PROCESS_NAME"
"""Variable that supervisord gives to every program, and that its children inherit."""


def find_processes(environment_file: Path) -> list[psutil.Process]:
    """Every process of this user that was told to work in this environment, and their descendants; never this one."""
    return [process for process, _ in _find_programs(environment_file)]


def measure_memory(environment_file: Path) -> dict[str, int]:
    """Proportional memory in bytes by program, the present process as `story`. Empty where the system has no PSS."""
    sizes: dict[str, int] = {}
    for process, program in [*_find_programs(environment_file), (psutil.Process(), "story")]:
        try:
            size = getattr(process.memory_full_info(), "pss", None)
        except psutil.Error:  # gone meanwhile
            continue
        if size is None:
            return {}
        sizes[program] = sizes.get(program, 0) + int(size)
    return sizes


def _find_programs(environment_file: Path) -> list[tuple[psutil.Process, str]]:
    """Processes with the program that each belongs to, parents before children."""
    programs: dict[int, str] = {}
    found = []
    for process in sorted(psutil.process_iter(["ppid"]), key=lambda item: item.pid):
        parent = process.info["ppid"]
        try:
            variables, words = process.environ(), process.cmdline()
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
        if process.pid == os.getpid():
            continue
        if variables.get(VARIABLE) == str(environment_file):
            program = variables.get(PROGRAM) or _name(words)
        elif parent in programs:
            # Ray's processes write their title over their environment: they are known by their parents.
            program = programs[parent]
        else:
            continue
        programs[process.pid] = program
        found.append((process, program))
    return found


def _name(words: list[str]) -> str:
    if any("supervisord" in word for word in words):
        return "supervisord"
    return "replay" if "replay" in words else "command line"
