"""The server of a revision without its inference log, to measure what the log costs."""

from __future__ import annotations

import sys
from typing import Any

from serving import __main__ as server
from slipway.spool import Spool


def _drop(self: Spool, columns: Any, length: int) -> bool:
    return True


if __name__ == "__main__":
    Spool.append = _drop  # type: ignore[method-assign]
    sys.exit(server.main())
