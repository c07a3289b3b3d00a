"""One pass of the collector: from spool files to Parquet, the label store's list of predictions, and retention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from slipway import spool
from slipway.collector.merging import Merging
from slipway.collector.parquet import write_parquet
from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.inference_log import date_folders, folder_of
from slipway.labels import LabelStore
from slipway.logs import get_logger
from slipway.object_path import AnyPath

if TYPE_CHECKING:
    import pyarrow as pa

_log = get_logger(__name__)


class Collection:
    """Moves rows from the spool of one environment to its inference log. Every method may be killed at any point."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._labels = LabelStore(environment)
        self._merging: dict[str, Merging] = {}
        self._retained: dict[str, date] = {}

    def recover(self) -> None:
        """After a start: take up what an earlier collector left half-done."""
        for folder in self._environment.state.inference_log.glob("model=*"):
            self._merging_of(folder.name.removeprefix("model="))

    def take(self) -> int:
        """Take all whole spool files; the number of rows. Raises OSError when the disk takes no more.

        A file taken twice is written twice under the same names, so nothing is doubled.
        """
        taken: list[AnyPath] = []
        rows = 0
        predictions: dict[str, list[tuple[str, datetime, datetime]]] = defaultdict(list)
        for file in self._spooled():
            table = self._read(file)
            if table is None:
                continue
            for model, day, part in _parts(table):
                name = f"{file.stem}.parquet"
                write_parquet(folder_of(self._environment, model) / f"date={day}" / name, part)
                self._merging_of(model).touch(day)
                columns = (part.column(name).to_pylist() for name in ("id", "event_time", "subject_time"))
                predictions[model] += zip(*columns, strict=True)
            rows += table.num_rows
            taken.append(file)
        for model, seen in predictions.items():
            self._labels.register(model, seen)
        for file in taken:
            file.unlink(missing_ok=True)
        return rows

    def tidy(self, as_of: datetime) -> None:
        """Merge small files, and delete what the contracts no longer keep."""
        unfinished = {f"{file.stem}.parquet" for file in self._spooled()}
        today = as_of.astimezone(UTC).date()
        for model, merging in self._merging.items():
            merging.work(today, unfinished)
            if self._retained.get(model) != today:
                self._expire(model, as_of)
                self._retained[model] = today

    def close(self) -> None:
        """Give the connections back."""
        self._labels.close()

    def _spooled(self) -> Iterator[AnyPath]:
        for files in spool.list_files(self._environment.state.spool).values():
            yield from files

    def _read(self, file: AnyPath) -> pa.Table | None:
        """The rows of a spool file; one that is damaged is set aside, so that it does not stop the others."""
        import pyarrow as pa

        try:
            table = spool.read_file(file)
            table.validate()
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            aside = file.with_suffix(".damaged")
            file.replace(aside)  # type: ignore[arg-type] # of the same kind as the file
            _log.error("a spool file is damaged", file=str(aside), error=str(error))
            return None
        return table

    def _merging_of(self, model: str) -> Merging:
        if model not in self._merging:
            self._merging[model] = Merging(folder_of(self._environment, model))
            self._merging[model].recover()
        return self._merging[model]

    def _expire(self, model: str, as_of: datetime) -> None:
        try:
            kept = load_contract(model).retention.log
        except SlipwayError:
            return  # a model without a contract keeps its log: nobody has said how long
        last = (as_of - kept).astimezone(UTC).date()
        for day, folder in date_folders(folder_of(self._environment, model)).items():
            if day < last:
                for file in folder.iterdir():
                    file.unlink(missing_ok=True)
                folder.rmdir()
                _log.info("log rows expired", model=model, date=str(day))


def _parts(table: pa.Table) -> Iterator[tuple[str, date, pa.Table]]:
    """The rows by model and UTC date of their event time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    model = table.column("model")[0].as_py()
    # Times are UTC in the file; as dates they stay so whatever the machine's zone.
    days = pc.cast(pc.cast(table.column("event_time"), pa.timestamp("us")), pa.date32())
    for day in pc.unique(days).to_pylist():
        yield model, day, table.filter(pc.equal(days, pa.scalar(day, pa.date32())))
