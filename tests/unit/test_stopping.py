"""Being told to stop, also in the moment in which a loop holds the lock of what it waits on."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The handler runs before the lock is given back, as when a signal arrives in the first instructions of `wait`.
PROGRAM = """
import signal
from slipway.stopping import stop_on_signals

stop = stop_on_signals()
with stop._cond:
    signal.raise_signal(signal.{signal})
assert stop.wait(30), "nobody has set it"
"""


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_a_signal_sets_the_event_whatever_it_interrupts(signal: str) -> None:
    program = PROGRAM.format(signal=signal)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
