"""Which rows train and which judge: the embargo, and that only due cohorts judge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as some

from pipelines.split import BEGINNING, split_of
from slipway.contract import Contract
from tests.unit.parcels import contract_of


def rows_of(contract: Contract, as_of: datetime, seed: int, rows: int = 3000) -> pd.DataFrame:
    """A hundred days of rows asked an hour ahead; labels arrive after 1 to 36 hours or, one in twenty, never."""
    random = np.random.default_rng(seed)
    posted = pd.Timestamp(as_of) - pd.to_timedelta(random.uniform(-1, 100 * 24, rows), unit="h")
    known = posted + pd.to_timedelta(random.uniform(1, 36, rows), unit="h")
    there = (known <= pd.Timestamp(as_of)) & (random.random(rows) > 0.05)
    return pd.DataFrame(
        {
            "posted": posted,
            "event_timestamp": posted - pd.Timedelta(hours=1),
            "label": np.where(there, (random.random(rows) < 0.3).astype(float), np.nan),
            "label_known_at": pd.Series(known).where(there),
        }
    )


def test_the_windows_of_a_run_are_whole_days_with_the_label_horizon_between() -> None:
    split = split_of(contract_of(window="14d"), datetime(2013, 3, 2, 9, tzinfo=UTC))
    assert split.judge_end == datetime(2013, 2, 28, tzinfo=UTC)
    assert split.judge_start == datetime(2013, 2, 14, tzinfo=UTC)
    assert split.train_end == datetime(2013, 2, 12, 12, tzinfo=UTC)
    assert split.start == BEGINNING


def test_a_sliding_window_begins_before_the_end_of_training() -> None:
    contract = contract_of(window="14d")
    contract = contract.model_copy(update={"training": contract.training.model_copy(update={"window": "30d"})})
    split = split_of(contract, datetime(2013, 3, 2, 9, tzinfo=UTC))
    assert split.train_end - split.start == timedelta(days=30)


@settings(max_examples=30, deadline=None)
@given(
    moment=some.datetimes(datetime(2013, 3, 1), datetime(2013, 12, 1)),  # noqa: DTZ001 -- made aware below
    seed=some.integers(0, 2**16),
)
def test_no_training_label_was_unknown_when_the_first_judged_prediction_was_asked(moment: datetime, seed: int) -> None:
    as_of = moment.replace(tzinfo=UTC)
    contract = contract_of(window="14d")
    rows, split = rows_of(contract, as_of, seed), split_of(contract, as_of)
    training, judged = rows[split.training(contract, rows)], rows[split.judged(contract, rows)]
    assert len(training)
    assert len(judged)
    assert training["label"].notna().all()
    assert training["label_known_at"].max() < judged["event_timestamp"].min()
    assert not set(training.index) & set(judged.index)
    # Every judged cohort is due: nothing may still be on its way.
    assert (judged["posted"] + contract.label.longest_delay <= pd.Timestamp(as_of)).all()


def test_a_label_that_arrives_later_than_agreed_does_not_train() -> None:
    contract = contract_of(window="14d")
    as_of = datetime(2013, 3, 2, tzinfo=UTC)
    rows = rows_of(contract, as_of, 1)
    split = split_of(contract, as_of)
    chosen = rows.index[split.training(contract, rows)][0]
    rows.loc[chosen, "label_known_at"] = pd.Timestamp(split.judge_start) + pd.Timedelta(hours=1)
    assert not split.training(contract, rows)[chosen]


def test_judged_rows_without_a_label_are_kept_to_be_counted() -> None:
    contract = contract_of(window="14d")
    as_of = datetime(2013, 3, 2, tzinfo=UTC)
    rows = rows_of(contract, as_of, 2)
    judged = rows[split_of(contract, as_of).judged(contract, rows)]
    assert judged["label"].isna().any()
