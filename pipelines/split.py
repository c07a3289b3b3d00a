"""Which rows train and which rows judge: later rows judge earlier ones, with the label horizon between them.

    ... training rows ... | embargo | judged rows ...... | not due yet | as_of
                     train_end  judge_start          judge_end

Every label of a training row was known before the first judged prediction was asked for, and every judged cohort is
due: late flights land last, so "the labels that have arrived so far" would be a biased sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd

from slipway.contract import Contract

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Split:
    """Moments of event time, UTC; each span takes its start and leaves out its end."""

    start: datetime
    train_end: datetime
    judge_start: datetime
    judge_end: datetime

    def training(self, contract: Contract, rows: pd.DataFrame) -> pd.Series:
        """Mask of the rows that train: labelled, and the label known before the judged window begins."""
        subject = rows[contract.entity.event_time]
        return (
            rows["label"].notna()
            & (rows["event_timestamp"] >= self.start)
            & (subject < self.train_end)
            & (rows["label_known_at"] < self.judge_start)
        )

    def judged(self, contract: Contract, rows: pd.DataFrame) -> pd.Series:
        """Mask of the rows that judge, those without a label included: how many lack one is a number of its own."""
        subject = rows[contract.entity.event_time]
        return (rows["event_timestamp"] >= self.judge_start) & (subject < self.judge_end)


def split_of(contract: Contract, as_of: datetime) -> Split:
    """The split of a run: whole UTC days, ending with the last day whose labels are all due at `as_of`."""
    due = as_of.astimezone(UTC) - contract.label.longest_delay
    judge_end = due.replace(hour=0, minute=0, second=0, microsecond=0)
    judge_start = judge_end - contract.gate.window
    train_end = judge_start - contract.label.longest_delay
    window = contract.training.window
    start = BEGINNING if window == "expanding" else train_end - timedelta(days=int(window.removesuffix("d")))
    return Split(start, train_end, judge_start, judge_end)
