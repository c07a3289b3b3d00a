"""Cohorts: judged whole, when every label is due, and missing labels stay missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from logged_rows import MODEL, contract, log_and_collect, make_environment

from slipway.cohorts import judged_rows
from slipway.environment import Environment
from slipway.labels import Label, LabelStore

# Flights leave an hour after they are asked about; the contract's label delay is 36 h.
ASKED = datetime(2013, 3, 1, 12, tzinfo=UTC)
DUE = datetime(2013, 3, 3, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    environment = make_environment(tmp_path)
    log_and_collect(environment, ["flight-a", "flight-b", "flight-c"], event_time=ASKED)
    return environment


def say(environment: Environment, id_: str, value: int, at: datetime, *, correction: bool = False) -> None:
    label = Label(MODEL, id_, value, ASKED + timedelta(hours=3), correction)
    if correction:
        label = Label(MODEL, id_, value, ASKED + timedelta(hours=4), correction)
    assert LabelStore(environment).add([label], as_of=at, source="test").problems == []


def labels_at(environment: Environment, as_of: datetime) -> dict[str, float]:
    rows = judged_rows(environment, contract(), ASKED - DAY, ASKED + DAY, as_of=as_of)
    return dict(zip(rows["id"], rows["label"], strict=True))


def test_nothing_is_judged_before_the_whole_cohort_is_due(environment: Environment) -> None:
    say(environment, "flight-a", 1, ASKED + timedelta(hours=5))
    assert labels_at(environment, DUE - timedelta(seconds=1)) == {}
    assert labels_at(environment, DUE)["flight-a"] == 1.0


def test_a_missing_label_is_missing_and_not_correct(environment: Environment) -> None:
    say(environment, "flight-a", 1, ASKED + timedelta(hours=5))
    say(environment, "flight-b", 0, ASKED + timedelta(hours=5))
    found = labels_at(environment, DUE)
    assert (found["flight-a"], found["flight-b"]) == (1.0, 0.0)
    assert np.isnan(found["flight-c"])


def test_a_label_that_came_too_late_changes_no_judged_cohort(environment: Environment) -> None:
    say(environment, "flight-a", 1, DUE + timedelta(hours=1))
    assert np.isnan(labels_at(environment, DUE + 5 * DAY)["flight-a"])


def test_a_correction_that_came_too_late_leaves_what_was_judged(environment: Environment) -> None:
    say(environment, "flight-a", 1, ASKED + timedelta(hours=5))
    say(environment, "flight-b", 1, ASKED + timedelta(hours=5))
    say(environment, "flight-a", 0, DUE - timedelta(hours=1), correction=True)
    say(environment, "flight-b", 0, DUE + timedelta(hours=1), correction=True)
    found = labels_at(environment, DUE + 5 * DAY)
    assert (found["flight-a"], found["flight-b"]) == (0.0, 1.0)


def test_both_versions_of_one_prediction_get_its_label(environment: Environment) -> None:
    log_and_collect(environment, ["flight-a"], version=2, event_time=ASKED, delivered=False)
    say(environment, "flight-a", 1, ASKED + timedelta(hours=5))
    rows = judged_rows(environment, contract(), ASKED, ASKED + DAY, as_of=DUE)
    assert rows[rows["id"] == "flight-a"][["version", "label"]].values.tolist() == [[1, 1.0], [2, 1.0]]
    only = judged_rows(environment, contract(), ASKED, ASKED + DAY, as_of=DUE, versions=[2], delivered=False)
    assert only["id"].tolist() == ["flight-a"]


def test_chosen_columns_come_with_what_the_join_needs(environment: Environment) -> None:
    rows = judged_rows(environment, contract(), ASKED, ASKED + DAY, as_of=DUE, columns=["prediction", "in_carrier"])
    assert rows.columns.tolist() == ["id", "version", "subject_time", "prediction", "in_carrier", "label"]


def test_an_empty_window_is_an_empty_frame(environment: Environment) -> None:
    rows = judged_rows(environment, contract(), ASKED + 9 * DAY, ASKED + 10 * DAY, as_of=DUE + 20 * DAY)
    assert rows.empty
    assert "label" in rows.columns
