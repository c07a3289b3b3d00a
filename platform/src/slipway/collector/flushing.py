"""Asks the running servers to write what they have in memory, so that the log is complete up to now."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from slipway.environment import Environment
from slipway.logs import get_logger
from slipway.unix_sockets import UnixConnection

TIMEOUT = 2.0
"""Seconds for each server."""
_REVISION = re.compile(r"[a-z][a-z0-9_]*-[0-9]+\.sock")
_log = get_logger(__name__)

Servers = dict[str, Callable[[], HTTPConnection]]
"""Name to what opens a connection to it."""


def find_servers(environment: Environment) -> Callable[[], Servers]:
    """What lists the servers that run: those with a socket here, or a cluster's pods of revisions."""
    if environment.pod is None:
        return partial(_on_sockets, environment.state.sockets)
    from slipway.targets.kubernetes.revision_pods import RevisionPods

    pods = RevisionPods(environment)
    return lambda: {
        name: partial(HTTPConnection, address, port, timeout=TIMEOUT) for name, (address, port) in pods.find().items()
    }


def _on_sockets(folder: Path) -> Servers:
    found = sorted(path for path in folder.glob("*.sock") if _REVISION.fullmatch(path.name))
    return {path.stem: partial(UnixConnection, path, TIMEOUT) for path in found}


class Flushing:
    """Reaches every server of a revision; holds a few threads to do so at once."""

    def __init__(self, servers: Callable[[], Servers]) -> None:
        self._servers = servers
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="flush")

    def flush_all(self) -> list[str]:
        """Names of the servers that live and did not flush; empty when the spool now holds all that was answered.

        Where nobody answers was a dead server: what it had not written is lost already.
        """
        return [name for name, done in self._ask(self._servers()) if not done]

    def _ask(self, found: Servers) -> Iterable[tuple[str, bool]]:
        return zip(found, self._threads.map(self._flush, found, found.values()), strict=True)

    def _flush(self, name: str, connect: Callable[[], HTTPConnection]) -> bool:
        connection = connect()
        try:
            connection.request("POST", "/flush")
            status = connection.getresponse().status
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError as error:
            _log.warning("a server does not flush", server=name, error=str(error) or type(error).__name__)
            return False
        finally:
            connection.close()
        if status != 200:
            _log.warning("a server does not flush", server=name, status=status)
        return status == 200
