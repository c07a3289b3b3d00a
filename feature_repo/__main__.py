"""`python -m feature_repo`: bring the cluster's feature registry to this release, before servers read it."""

from __future__ import annotations

import sys

from sqlalchemy.exc import OperationalError

from feature_repo.registry import apply_definitions
from slipway import logs
from slipway.environment import open_environment
from slipway.errors import SlipwayError


def main() -> int:
    """Definitions that are current stay; a database that does not answer is a failure, to be tried again."""
    logs.configure("feature-definitions")
    log = logs.get_logger("features")
    try:
        apply_definitions(open_environment())
    except SlipwayError as error:
        log.error("not applied", error=str(error))
        return error.exit_code
    except OperationalError as error:
        log.error("not applied", error=f"the database does not answer: {error.orig}")
        return 1
    log.info("applied")
    return 0


if __name__ == "__main__":
    sys.exit(main())
