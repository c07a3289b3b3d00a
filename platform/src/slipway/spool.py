"""What a server has answered and the collector has not yet taken: rows in memory, then small files.

Appending never waits for the disk and never fails. Rows reach a file within the flush interval; a kill loses at most
those that had not. While the disk is full a bounded number of rows waits in memory and the rest is dropped and counted;
every row has a number within its server's start, so what was dropped is a gap that anyone can see later.

A file is `spool/<model>-<version>/<start>-<first number>.arrow` (Arrow IPC), written whole or not at all.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from slipway.files import write_atomically
from slipway.logs import get_logger
from slipway.object_path import AnyPath

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 50_000
"""Rows that wait in memory while the disk takes none."""
SOON = 5_000
"""Rows at which a file is written before its time."""

_log = get_logger(__name__)


@dataclass
class SpoolCounts:
    """Rows since this server started."""

    appended: int = 0
    written: int = 0
    dropped: int = 0
    failures: int = 0
    """Attempts to write a file that failed; their rows waited for the next one."""


@dataclass(frozen=True)
class _Batch:
    """The rows of one request."""

    first: int
    length: int
    columns: Mapping[str, Any]
    """Column name to a list or numpy array of `length` values, or to one value that all rows share."""


class Spool:
    """The rows of one server start. `append` from any thread; one thread of its own writes."""

    def __init__(
        self,
        folder: AnyPath,
        schema: pa.Schema,
        *,
        constants: Mapping[str, Any],
        interval: float,
        max_rows: int = MAX_ROWS,
    ) -> None:
        """`schema` names every column; `constants` are those that are the same in all rows of this start.

        `interval` is the longest time in seconds for which an appended row may be in memory only.
        """
        self.start_id = uuid.uuid4().hex[:16]
        self.counts = SpoolCounts()
        self._folder = folder
        self._schema = schema
        self._constants = {**constants, "server": self.start_id}
        self._interval = interval
        self._max_rows = max_rows
        self._waiting: list[_Batch] = []
        self._rows = 0
        self._number = 0
        self._lock = threading.Condition()
        self._writing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def open(self) -> None:
        """Create the folder, remove what an earlier start left half-written, and start writing."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for draft in self._folder.glob(".*.draft"):
            draft.unlink(missing_ok=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that are in memory only."""
        return self._rows

    def append(self, columns: Mapping[str, Any], length: int) -> bool:
        """Take the rows of one request; False when they were dropped because too many wait for the disk."""
        with self._lock:
            first, self._number = self._number, self._number + length
            if self._rows + length > self._max_rows:
                self.counts.dropped += length
                return False
            self._waiting.append(_Batch(first, length, columns))
            self._rows += length
            self.counts.appended += length
            if len(self._waiting) == 1 or self._rows >= SOON:
                self._lock.notify()
        return True

    def flush(self) -> None:
        """Write all rows that were appended before this call. Raises OSError when the disk does not take them."""
        with self._writing:
            with self._lock:
                batches, self._waiting = self._waiting, []
            if not batches:
                return
            try:
                self._write(batches)
            except BaseException:
                self.counts.failures += 1
                with self._lock:
                    self._waiting = batches + self._waiting
                raise
            written = sum(batch.length for batch in batches)
            with self._lock:
                self._rows -= written
            self.counts.written += written

    def close(self) -> None:
        """Write what is left and stop; what the disk does not take now is lost, and counted as dropped."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join(timeout=10)
        try:
            self.flush()
        except OSError as error:
            self.counts.dropped += self._rows
            _log.error("log rows lost at stop", rows=self._rows, error=str(error))

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                # Half the interval: a row that comes just after a write began waits for the next, and for that to end.
                self._lock.wait_for(lambda: self._closed or self._rows >= SOON, timeout=self._interval / 2)
                if self._closed:
                    return
            try:
                self.flush()
            except OSError as error:
                _log.error("log rows wait for the disk", rows=self._rows, error=str(error), **vars(self.counts))
                time.sleep(self._interval)
            except Exception:
                # Rows that cannot be written at all must not stop those that can.
                _log.exception("log rows dropped")
                self._drop_all()

    def _drop_all(self) -> None:
        with self._lock:
            self.counts.dropped += self._rows
            self._waiting, self._rows = [], 0

    def _write(self, batches: list[_Batch]) -> None:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_table(self._table(batches))
        file = self._folder / f"{self.start_id}-{batches[0].first:012d}.arrow"
        write_atomically(file, sink.getvalue().to_pybytes())

    def _table(self, batches: list[_Batch]) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        length = sum(batch.length for batch in batches)
        arrays = []
        for field in self._schema:
            if field.name == "sequence":
                numbers = [np.arange(batch.first, batch.first + batch.length) for batch in batches]
                arrays.append(pa.array(np.concatenate(numbers), field.type))
            elif field.name in self._constants:
                arrays.append(pa.repeat(pa.scalar(self._constants[field.name], field.type), length))
            else:
                values = [_expanded(batch.columns[field.name], batch.length) for batch in batches]
                whole = np.concatenate(values) if isinstance(values[0], np.ndarray) else list(chain(*values))
                # from_pandas: NaN is how numpy says missing, and a missing value is null in the log
                arrays.append(pa.array(whole, field.type, from_pandas=True))
        return pa.Table.from_arrays(arrays, schema=self._schema)


def _expanded(value: Any, length: int) -> Any:
    import numpy as np

    return value if isinstance(value, list | np.ndarray) else [value] * length


def list_files(spool: AnyPath) -> dict[str, list[AnyPath]]:
    """Revision (`<model>-<version>`) to its whole files, oldest first within each server start."""
    return {
        folder.name: _sorted(folder.glob("[!.]*.arrow")) for folder in _sorted(spool.glob("[!.]*")) if folder.is_dir()
    }


def _sorted(files: Iterable[AnyPath]) -> list[AnyPath]:
    return sorted(files, key=str)


def read_file(file: AnyPath) -> pa.Table:
    """The rows of one spool file. Raises pyarrow.ArrowInvalid when it is none."""
    import pyarrow as pa

    with pa.ipc.open_file(file.read_bytes()) as reader:
        return reader.read_all()
