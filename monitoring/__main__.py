"""`python -m monitoring`: the resident process; with `--once MODEL` (`--due` for a schedule) one look, printed as JSON
lines."""

from __future__ import annotations

import argparse
import sys

from monitoring.watch import watch_until
from slipway import logs
from slipway.environment import Environment, open_environment
from slipway.errors import SlipwayError
from slipway.ledger import open_ledger, releases
from slipway.stopping import stop_on_signals


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT, or look once."""
    parser = argparse.ArgumentParser(prog="python -m monitoring")
    parser.add_argument("--once", metavar="MODEL", help="examine the due windows of one model and print them")
    parser.add_argument("--due", metavar="MODEL", help="the same for a schedule: a model without champion has none due")
    parser.add_argument("--window", metavar="START/END", help="examine this span instead, and store nothing")
    parser.add_argument("--kind", action="append", default=[], help="only this kind; may be given more than once")
    given = parser.parse_args(arguments)
    logs.configure("monitor")
    try:
        environment = open_environment()
        if given.due and not has_champion(environment, given.due):
            logs.get_logger("monitoring").info("nothing to watch", model=given.due)
            return 0
        if given.once or given.due:
            from monitoring.look import look_once

            look_once(environment, given.once or given.due, window=given.window, kinds=given.kind)
            return 0
        watch_until(environment, stop_on_signals())
    except SlipwayError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- a person or the command line reads this
        return error.exit_code
    return 0


def has_champion(environment: Environment, model: str) -> bool:
    """Whether there is somebody to watch."""
    ledger = open_ledger(environment)
    with ledger.read() as session:
        release = releases.read(session, model)
    ledger.close()
    return release is not None and release.champion is not None


if __name__ == "__main__":
    sys.exit(main())
