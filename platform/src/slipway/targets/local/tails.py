"""The ends of the processes' log files, as they are and as they grow; rotation is followed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from slipway.environment import Environment
from slipway.targets.local.configuration import log_file

_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Warning|NotReady|Refused|Conflict|Unknown|Invalid\w+)\b")
"""How the line of a traceback begins that says what happened; the first one is the cause."""

_LONGEST = 256_000
"""Bytes at the end of a file that are looked at."""


def list_logs(environment: Environment) -> list[str]:
    """Names of the processes that have a log file, sorted."""
    return sorted(file.stem for file in environment.state.logs.glob("*.log"))


def read_tail(environment: Environment, name: str, lines: int) -> list[str]:
    """The last lines of a process's log; empty when there is none."""
    file = log_file(environment, name)
    if not file.exists():
        return []
    with file.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - _LONGEST))
        return stream.read().decode(errors="replace").splitlines()[-lines:]


def shorten(line: str, *, limit: int = 300) -> str:
    """A log line for people: a JSON line as its event and the last line of its exception, any line cut at `limit`."""
    try:
        fields = json.loads(line)
        text = f"{fields['timestamp']} {fields['level']} {str(fields['event']).strip()}"
        exception = str(fields.get("exception", "")).strip()
        first_of_cause = next((part for part in exception.splitlines() if _ERROR.match(part)), "")
        text = f"{text}: {first_of_cause}" if first_of_cause else text
    except (ValueError, TypeError, KeyError):
        text = line
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def follow(environment: Environment, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(process, line) for every line that is written from now on, for ever; the caller ends it."""
    places = {name: _end_of(log_file(environment, name)) for name in names}
    while True:
        quiet = True
        for name in names:
            lines, places[name] = _read_new(log_file(environment, name), *places[name])
            quiet = quiet and not lines
            yield from ((name, line) for line in lines)
        if quiet:
            time.sleep(0.3)


def _end_of(file: Path) -> tuple[int, int]:
    """(inode, size); (0, 0) when the file is not there."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_ino, stat.st_size


def _read_new(file: Path, inode: int, offset: int) -> tuple[list[str], tuple[int, int]]:
    """Complete lines after `offset`; a new inode or a smaller file was rotated and is read from its start."""
    now, size = _end_of(file)
    if now != inode or size < offset:
        inode, offset = now, 0
    if size <= offset:
        return [], (inode, offset)
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(size - offset)
    complete = data[: data.rfind(b"\n") + 1]
    return complete.decode(errors="replace").splitlines(), (inode, offset + len(complete))
