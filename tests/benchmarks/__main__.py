"""`python -m tests.benchmarks`: a table, and the same figures as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

from slipway.cli.output import print_table
from tests.benchmarks.measurement import Figure

BENCHMARKS = ("joins", "monitor_window", "log_cost", "platform")
"""Modules of this package, the cheap ones first; each has `run(repeat)`."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="may be given more than once")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each figure (default 5)")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks.json"))
    given = parser.parse_args()
    if given.repeat < 1:
        parser.error("--repeat: at least 1")
    warnings.simplefilter("ignore")
    figures: list[Figure] = []
    failed = 0
    for name in given.only or BENCHMARKS:
        begun = time.monotonic()
        try:
            figures += importlib.import_module(f"tests.benchmarks.{name}").run(given.repeat)
        except Exception as error:
            failed += 1
            sys.stderr.write(f"{name}: {type(error).__name__}: {error}\n")
        sys.stderr.write(f"{name}: {time.monotonic() - begun:.0f} s\n")
    print_table("benchmarks: median [least, most]", [_row(figure) for figure in figures])
    for figure in figures:
        if figure.note:
            sys.stdout.write(f"{figure.name}: {figure.note}\n")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()}
    facts = {"machine": machine, "figures": [dataclasses.asdict(figure) for figure in figures]}
    given.output.write_text(json.dumps(facts, indent=2) + "\n")
    return 1 if failed else 0


def _row(figure: Figure) -> dict[str, object]:
    return {
        "figure": figure.name,
        "unit": figure.unit,
        "ours": figure.ours,
        "peer": figure.peer,
        "ratio": figure.ratio,
        "against": figure.peer_name,
    }


if __name__ == "__main__":
    sys.exit(main())
