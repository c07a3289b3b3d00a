"""Small files become large ones, without a moment in which a row is not there.

The merged file says which files it replaces; they are removed one pass later, so that a reader who has just listed the
folder finds either them or it, and after a crash the same note says what is left to remove.
"""

from __future__ import annotations

import hashlib
from datetime import date

from slipway.collector.parquet import open_parquet, replaced_by, write_parquet
from slipway.inference_log import date_folders
from slipway.object_path import AnyPath

MANY = 16
"""Small files of one day that are merged while the day still goes on."""
LARGE = 256 << 20
"""Bytes; a file of this size is left as it is."""
_MERGED = "merged-"


class Merging:
    """Merges inside one model's log; remembers what the next pass removes."""

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        self._removable: list[AnyPath] = []
        self._touched: set[date] = set()

    def recover(self) -> None:
        """After a start: find what an earlier collector had merged and not yet removed, and drafts it left behind."""
        for day, folder in date_folders(self._folder).items():
            for draft in folder.glob(".*.draft"):
                draft.unlink(missing_ok=True)
            files = _files(folder)
            for file in files:
                if file.name.startswith(_MERGED):
                    self._removable += [folder / name for name in replaced_by(file) if (folder / name).exists()]
            if len(files) > 1:
                self._touched.add(day)

    def touch(self, day: date) -> None:
        """Say that a day has got a new file."""
        self._touched.add(day)

    def work(self, today: date, unfinished: set[str]) -> None:
        """One pass. Days before `today` become one file; of today's, many small files become one.

        `unfinished` are names whose source is still in the spool: it could be taken again under the same name.
        """
        for file in self._removable:
            file.unlink(missing_ok=True)
        self._removable = []
        for day in sorted(self._touched):
            files = [file for file in _files(self._folder / f"date={day}") if file.name not in unfinished]
            small = [file for file in files if file.stat().st_size < LARGE]
            if day >= today:
                small = [file for file in small if not file.name.startswith(_MERGED)]
                if len(small) >= MANY:
                    self._merge(small)
            else:
                if len(small) > 1:
                    self._merge(small)
                if len(files) == len(_files(self._folder / f"date={day}")):
                    self._touched.discard(day)

    def _merge(self, files: list[AnyPath]) -> None:
        import pyarrow as pa

        tables = []
        for file in files:
            with open_parquet(file) as opened:
                tables.append(opened.read(use_threads=False))
        whole = pa.concat_tables(
            [table.replace_schema_metadata(None) for table in tables], promote_options="default"
        ).combine_chunks()
        names = [file.name for file in files]
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]
        write_parquet(files[0].with_name(f"{_MERGED}{digest}.parquet"), whole, replaces=names)
        self._removable += files


def _files(folder: AnyPath) -> list[AnyPath]:
    return sorted(folder.glob("[!.]*.parquet"), key=str)
