"""`python -m slipway.ledger`: bring the tables of ledger, labels and logins to this release, before they are used."""

from __future__ import annotations

import sys

from sqlalchemy.exc import OperationalError

from slipway import logs
from slipway.environment import open_environment
from slipway.errors import SlipwayError
from slipway.labels import LabelStore
from slipway.ledger import open_ledger
from slipway.sessions import SessionStore


def main() -> int:
    """Nothing happens to tables that are current; a database that does not answer is a failure, to be tried again."""
    logs.configure("ledger-migration")
    log = logs.get_logger("ledger")
    try:
        environment = open_environment()
        open_ledger(environment).close()
        LabelStore(environment).close()
        sessions = SessionStore(environment)
        sessions.prepare()
        sessions.close()
    except SlipwayError as error:
        log.error("not migrated", error=str(error))
        return error.exit_code
    except OperationalError as error:
        log.error("not migrated", error=f"the database does not answer: {error.orig}")
        return 1
    log.info("migrated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
