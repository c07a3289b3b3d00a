"""`python -m serving --model M --version N`: serves one revision until it is told to stop."""

from __future__ import annotations

import argparse
import os
import sys

# Read when the numeric libraries are imported: one thread each, since many servers share the machine.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve one version of a model.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", required=True, type=int)
    chosen = parser.parse_args()
    # KServe reads sys.argv when it is imported; it must see nothing of ours, and must leave logging alone.
    sys.argv[1:] = ["--configure_logging", "false"]

    from slipway.environment import open_environment
    from slipway.errors import SlipwayError
    from slipway.logs import configure, get_logger

    configure(f"revision-{chosen.model}-{chosen.version}")
    try:
        from serving.process import serve

        serve(open_environment(), chosen.model, chosen.version)
    except SlipwayError as error:
        get_logger("serving").error("cannot serve", error=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
