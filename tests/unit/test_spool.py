"""The spool: rows reach a file in time, and what cannot be written is counted, never in the way."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from slipway import spool
from slipway.spool import Spool

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("model", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("score", pa.float64()),
        ("number", pa.int64()),
        ("server", pa.string()),
        ("sequence", pa.int64()),
    ]
)
MOMENT = datetime(2013, 3, 1, 12, tzinfo=UTC)


def rows(*ids: str) -> tuple[dict[str, Any], int]:
    scores = np.linspace(0, 1, len(ids))
    return {"id": list(ids), "event_time": MOMENT, "score": scores, "number": np.full(len(ids), 3.0)}, len(ids)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    opened: list[Spool] = []

    def make(interval: float = 60.0, max_rows: int = 1000) -> Spool:
        made = Spool(
            tmp_path / "spool" / "parcels-1",
            SCHEMA,
            constants={"model": "parcels"},
            interval=interval,
            max_rows=max_rows,
        )
        made.open()
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


def read(folder: Path) -> pa.Table:
    files = [file for listed in spool.list_files(folder).values() for file in listed]
    return pa.concat_tables([spool.read_file(file) for file in files])


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "ran out of time"
        time.sleep(0.01)


def test_rows_are_in_a_file_within_the_interval_without_being_asked(make: Callable[..., Spool], tmp_path: Path) -> None:
    made = make(interval=0.2)
    made.append(*rows("a", "b"))
    began = time.monotonic()
    wait_for(lambda: made.counts.written == 2)
    assert time.monotonic() - began < 0.2 + 0.5  # the machine's own delays
    assert read(tmp_path / "spool").column("id").to_pylist() == ["a", "b"]


def test_a_flush_writes_everything_with_its_numbers_and_constants(make: Callable[..., Spool], tmp_path: Path) -> None:
    made = make()
    made.append(*rows("a"))
    made.append(*rows("b", "c"))
    made.flush()
    made.append(*rows("d"))
    made.flush()
    table = read(tmp_path / "spool")
    assert table.schema == SCHEMA
    assert table.column("id").to_pylist() == ["a", "b", "c", "d"]
    assert table.column("sequence").to_pylist() == [0, 1, 2, 3]
    assert set(table.column("server").to_pylist()) == {made.start_id}
    assert table.column("event_time").to_pylist() == [MOMENT] * 4
    assert table.column("number").to_pylist() == [3] * 4
    assert made.waiting == 0


def test_a_flush_of_nothing_writes_no_file(make: Callable[..., Spool], tmp_path: Path) -> None:
    make().flush()
    assert spool.list_files(tmp_path / "spool") == {"parcels-1": []}


def test_missing_numbers_are_null(make: Callable[..., Spool], tmp_path: Path) -> None:
    made = make()
    columns, _ = rows("a", "b")
    columns |= {"score": np.array([np.nan, 0.5]), "number": np.array([np.nan, 2.0])}
    made.append(columns, 2)
    made.flush()
    table = read(tmp_path / "spool")
    assert table.column("score").to_pylist() == [None, 0.5]
    assert table.column("number").to_pylist() == [None, 2]


def test_many_rows_are_written_before_their_time(make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SOON", 10)
    made = make(interval=600.0)
    made.append(*rows(*(str(number) for number in range(20))))
    wait_for(lambda: made.counts.written == 20)


def test_rows_beyond_the_limit_are_dropped_counted_and_leave_a_gap(make: Callable[..., Spool], tmp_path: Path) -> None:
    made = make(max_rows=3)
    assert made.append(*rows("a", "b"))
    assert not made.append(*rows("c", "d"))
    assert made.append(*rows("e"))
    made.flush()
    assert made.counts.dropped == 2
    assert read(tmp_path / "spool").column("sequence").to_pylist() == [0, 1, 4]


def test_a_full_disk_keeps_the_rows_and_the_spool_recovers(make: Callable[..., Spool], tmp_path: Path) -> None:
    made = make(interval=600.0, max_rows=4)
    made.append(*rows("a", "b"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # every larger file: EFBIG, as ENOSPC on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            made.flush()
        assert made.append(*rows("c", "d"))
        assert not made.append(*rows("e"))
        assert (made.waiting, made.counts.failures, made.counts.dropped) == (4, 1, 1)
        assert [file for file in (tmp_path / "spool" / "parcels-1").iterdir() if file.stat().st_size] == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    made.flush()
    assert read(tmp_path / "spool").column("id").to_pylist() == ["a", "b", "c", "d"]
    assert made.waiting == 0


def test_rows_that_cannot_be_written_at_all_do_not_stop_the_others(make: Callable[..., Spool], tmp_path: Path) -> None:
    made = make(interval=0.05)
    columns, _ = rows("a")
    made.append(columns | {"score": ["not a number"]}, 1)
    wait_for(lambda: made.counts.dropped == 1)
    made.append(*rows("b"))
    wait_for(lambda: made.counts.written == 1)
    assert read(tmp_path / "spool").column("sequence").to_pylist() == [1]


def test_closing_writes_what_is_left(make: Callable[..., Spool], tmp_path: Path) -> None:
    made = make(interval=600.0)
    made.append(*rows("a"))
    made.close()
    assert read(tmp_path / "spool").column("id").to_pylist() == ["a"]


def test_opening_removes_what_a_killed_start_left_half_written(make: Callable[..., Spool], tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "parcels-1"
    folder.mkdir(parents=True)
    (folder / ".0123-000000000000.arrow.99.draft").write_bytes(b"half")
    make()
    assert list(folder.iterdir()) == []
