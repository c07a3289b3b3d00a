"""`python -m monitoring`: the resident process; with `--once MODEL` one look, printed as JSON lines."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from monitoring.watch import watch_until
from slipway import logs
from slipway.environment import open_environment
from slipway.errors import SlipwayError


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT, or look once."""
    parser = argparse.ArgumentParser(prog="python -m monitoring")
    parser.add_argument("--once", metavar="MODEL", help="examine the due windows of one model and print them")
    parser.add_argument("--window", metavar="START/END", help="examine this span instead, and store nothing")
    parser.add_argument("--kind", action="append", default=[], help="only this kind; may be given more than once")
    given = parser.parse_args(arguments)
    logs.configure("monitor")
    try:
        environment = open_environment()
        if given.once:
            from monitoring.look import look_once

            look_once(environment, given.once, window=given.window, kinds=given.kind)
            return 0
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        watch_until(environment, stop)
    except SlipwayError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- a person or the command line reads this
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
