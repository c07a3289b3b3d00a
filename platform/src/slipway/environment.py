"""Which environment a process works in: its settings, its state and its clock, opened once at start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from slipway.clock import Clock, open_clock
from slipway.pod import Pod, find_pod
from slipway.settings import Settings, load_settings
from slipway.state import State

VARIABLE = "SLIPWAY_ENVIRONMENT"
"""Names the environment (`local`) or the path of its file; `--env` overrides it, default `local`."""


@dataclass(frozen=True)
class Environment:
    """An opened environment. Every process gets it from `open_environment`."""

    file: Path
    settings: Settings
    pod: Pod | None = None
    """What this process was told by its pod; None on a machine of one's own."""

    @cached_property
    def state(self) -> State:
        return State(self.settings.state_dir, self.pod)

    @cached_property
    def clock(self) -> Clock:
        return open_clock(self.settings.clock.source, self.state.clock_file)


def open_environment(name: str | None = None) -> Environment:
    """Load the named environment's settings. Raises InvalidSettings with every mistake."""
    file, settings = load_settings(name or os.environ.get(VARIABLE) or "local")
    environment = Environment(file, settings, find_pod())
    if environment.pod is not None:
        environment.state.prepare()  # on a machine of one's own, that was done before any process started
    return environment
