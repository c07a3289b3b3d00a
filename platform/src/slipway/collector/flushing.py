"""Asks the running servers to write what they have in memory, so that the log is complete up to now."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slipway.logs import get_logger
from slipway.unix_sockets import UnixConnection

_REVISION = re.compile(r"[a-z][a-z0-9_]*-[0-9]+\.sock")
_log = get_logger(__name__)


class Flushing:
    """Reaches every revision's socket in the folder of sockets; holds a few threads to do so at once."""

    def __init__(self, sockets: Path, *, timeout: float = 2.0) -> None:
        """`timeout` in seconds, for each server."""
        self._sockets = sockets
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="flush")

    def flush_all(self) -> list[str]:
        """Names of the servers that live and did not flush; empty when the spool now holds all that was answered.

        A socket that nobody answers on belongs to a dead server: what it had not written is lost already.
        """
        found = sorted(path for path in self._sockets.glob("*.sock") if _REVISION.fullmatch(path.name))
        return [path.stem for path, done in self._ask(found) if not done]

    def _ask(self, found: list[Path]) -> Iterable[tuple[Path, bool]]:
        return zip(found, self._threads.map(self._flush, found), strict=True)

    def _flush(self, path: Path) -> bool:
        connection = UnixConnection(path, self._timeout)
        try:
            connection.request("POST", "/flush")
            status = connection.getresponse().status
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError as error:
            _log.warning("a server does not flush", server=path.stem, error=str(error) or type(error).__name__)
            return False
        finally:
            connection.close()
        if status != 200:
            _log.warning("a server does not flush", server=path.stem, status=status)
        return status == 200
