"""Which predictions may be judged: whole cohorts whose labels are all due, with the labels that came in time.

A cohort is one UTC day of the entity's event time. It is due when that day and the contract's label delay are over:
labels that "came so far" are biased, since late events land last. A missing label stays missing (NaN), never a correct
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from slipway import inference_log
from slipway.contract import Contract
from slipway.environment import Environment
from slipway.labels import LabelStore

if TYPE_CHECKING:
    import pandas as pd

_DAY = timedelta(days=1)


def judged_rows(
    environment: Environment,
    contract: Contract,
    start: datetime,
    end: datetime,
    *,
    as_of: datetime,
    versions: Sequence[int] | None = None,
    delivered: bool | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Log rows with event time in [start, end) whose cohort is due at `as_of`, joined with their labels.

    Returns the log's columns (or `columns`, with id, version and subject_time) and `label`: 1.0, 0.0, or NaN where none
    had been received when the cohort became due. The same call gives the same labels at any later `as_of`.
    """
    wanted = None if columns is None else list(dict.fromkeys(["id", "version", "subject_time", *columns]))
    rows: pd.DataFrame = inference_log.read_rows(
        environment, contract.model, start, end, versions=versions, delivered=delivered, columns=wanted
    )
    delay = contract.label.longest_delay
    # As in slipway.labels.judged_at, for a whole column at once.
    due = rows["subject_time"].dt.floor("D") + _DAY + delay
    rows, due = rows[due <= as_of].reset_index(drop=True), due[due <= as_of].reset_index(drop=True)
    said = LabelStore(environment).read_all(contract.model, known_by=as_of, known_from=start)
    said = said[said["id"].isin(rows["id"])]
    due_of = due.groupby(rows["id"]).min()
    in_time = said[said["received"] <= said["id"].map(due_of)]
    values = in_time.drop_duplicates("id", keep="last").set_index("id")["value"].astype("float64")
    rows["label"] = rows["id"].map(values).astype("float64")
    return rows
