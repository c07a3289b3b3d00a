"""`python -m pipelines.flight_delay.replay --from 2013-03-01 --to 2013-11-01 --sample 0.3`"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta

from pipelines.flight_delay.replay.player import Plan, Player
from slipway.durations import parse_duration
from slipway.environment import open_environment
from slipway.errors import SlipwayError


def main() -> int:
    """Play; exit 0 (played), 1 (the platform did not keep up), 2 (wrong use)."""
    options = _read_options()
    shown = Progress(sys.stderr.isatty())
    try:
        plan = Plan(
            options.start,
            options.end,
            sample=options.sample,
            batch=options.batch,
            step=options.step,
            speed=options.speed,
        )
        counts = asyncio.run(Player(open_environment(options.env), plan, shown.say).play())
    except SlipwayError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 1
    sys.stdout.write(json.dumps(counts) + "\n")
    return 0


class Progress:
    """One line a message; on a terminal, waiting overwrites its own line."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal
        self._last = ""

    def say(self, moment: datetime, text: str) -> None:
        """`moment` is event time."""
        line = f"{moment:%Y-%m-%d %H:%M}  {text}"
        waiting = text.startswith("waiting")
        if line != self._last and (self._terminal or not waiting):
            sys.stderr.write(f"\r\033[K{line}" + ("" if waiting else "\n") if self._terminal else f"{line}\n")
            sys.stderr.flush()
        self._last = line


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="replay", description="Play the flights of 2013 to the platform.")
    parser.add_argument("--from", dest="start", type=_midnight, required=True, help="first event day (UTC)")
    parser.add_argument("--to", dest="end", type=_midnight, required=True, help="the day after the last one")
    parser.add_argument("--sample", type=float, default=1.0, help="share of flights that ask for a prediction; 0: none")
    parser.add_argument("--batch", type=int, help="rows in a request (default: 25, and 1 while a rollout is open)")
    parser.add_argument("--step", type=_duration, default=timedelta(minutes=30), help="event time between two ticks")
    parser.add_argument("--speed", type=float, help="event seconds per second, at most (default: no limit)")
    parser.add_argument("--env", help="environment: a name or the path of its file")
    return parser.parse_args()


def _midnight(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day\nhint: 2013-03-01") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}\nhint: 30m") from None


if __name__ == "__main__":
    raise SystemExit(main())
