"""`python -m pipelines.flight_delay.demo`: plays the story, writes the report, stops everything it started."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

from pipelines.flight_delay.demo.demonstration import perform, report_again
from pipelines.flight_delay.demo.plan import Plan
from slipway.errors import SlipwayError
from slipway.settings import REPOSITORY


def main() -> int:
    """Exit 0 when all five acts happened, 1 when one did not, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.flight_delay.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "demo", help="for the report and run/, made new")
    parser.add_argument(
        "--sample", type=float, default=Plan.sample, help="share of flights that ask (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the platform running at the end")
    parser.add_argument("--report", action="store_true", help="only the report, from what the last run left")
    given = parser.parse_args()
    if not 0 < given.sample <= 1:
        parser.error("--sample: a share above 0, at most 1")
    # A terminal's hang-up and a polite kill must stop the platform just as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        plan = replace(Plan(), sample=given.sample)
        result = report_again(given.folder, plan) if given.report else perform(given.folder, plan, keep=given.keep)
    except KeyboardInterrupt:
        print("interrupted; everything was stopped", file=sys.stderr)  # noqa: T201
        return 130
    except SlipwayError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(result.summary)  # noqa: T201
    return 0 if result.happened else 1


if __name__ == "__main__":
    sys.exit(main())
