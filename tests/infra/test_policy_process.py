"""The process that serves the policy pack to Pulumi's engine."""

from __future__ import annotations

import subprocess
import sys

import psutil

from slipway.settings import REPOSITORY

PACK = """
import time
from infra.policies.__main__ import end_with_parent
end_with_parent()
print("up", flush=True)
time.sleep(600)
"""
ENGINE = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]]).pid, flush=True)
time.sleep(600)
"""


def test_a_pack_does_not_outlive_an_engine_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE, PACK], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as engine:
        assert engine.stdout is not None
        told = sorted(engine.stdout.readline().strip() for _ in range(2))
        assert told[1] == "up"
        served = psutil.Process(int(told[0]))
        engine.kill()
        engine.wait()
        served.wait(timeout=60)
