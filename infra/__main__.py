"""`python -m infra up|preview|down|refresh|status|unlock --env NAME`: both programs through Pulumi's engine."""

from __future__ import annotations

import argparse
import signal
import sys

from infra import commands
from infra.engine import PROJECTS
from slipway.environment import open_environment
from slipway.errors import SlipwayError, of_system


def main() -> int:
    """Exit 0, 1 (failed, or findings) or 2 (wrong use), never with a traceback."""
    arguments = _parse()
    # Who is told to end by the system ends as by Ctrl-C: what has begun is finished, the state is released.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        environment = open_environment(arguments.env)
        match arguments.command:
            case "preview":
                return commands.preview(environment, _say)
            case "up":
                return commands.up(environment, _say, yes=arguments.yes)
            case "refresh":
                return commands.refresh(environment, _say)
            case "down":
                return commands.down(environment, _say, yes=arguments.yes, keep_data=arguments.keep_data)
            case "status":
                return commands.status(environment, _say, as_json=arguments.json)
            case _:
                return commands.unlock(environment, _say, arguments.project, yes=arguments.yes)
    except (SlipwayError, OSError) as error:
        told = of_system(error) if isinstance(error, OSError) else error
        sys.stderr.write(f"{told}\n")
        return told.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is lost: the same command goes on from there\n")
        return 130


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra", description="The platform on Kubernetes.")
    parser.add_argument("command", choices=("preview", "up", "refresh", "down", "status", "unlock"))
    parser.add_argument("--env", required=True, help="environment: a name or the path of its file")
    parser.add_argument("--yes", action="store_true", help="answer every question with yes")
    parser.add_argument("--keep-data", action="store_true", help="down: leave volumes and databases")
    parser.add_argument("--json", action="store_true", help="status: for programs")
    parser.add_argument("--project", choices=PROJECTS, default="services", help="unlock: whose state")
    return parser.parse_args()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
