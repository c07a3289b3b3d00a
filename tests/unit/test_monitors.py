"""What the monitors conclude from rows, without Evidently: performance, skew and freshness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from feature_repo.transforms import find_transforms
from monitoring.drift import _reject_by_holm, choose_columns
from monitoring.freshness import examine_freshness
from monitoring.performance import gate_interval, judge
from monitoring.skew import compare
from slipway.contract import Contract, load_contract

START = datetime(2013, 3, 7, tzinfo=UTC)
GATE: dict[str, Any] = {"value": 0.80, "interval": [0.78, 0.82]}
SERVICE = "flight_delay_v1"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract("flight_delay")


def judged_rows(count: int = 3000, *, signal: float = 1.2, version: int = 1, seed: int = 0) -> pd.DataFrame:
    """Judged rows of one week; the AUC falls with `signal`."""
    rng = np.random.default_rng(seed)
    late = (rng.random(count) < 0.25).astype(float)
    event_time = pd.Timestamp(START) + pd.to_timedelta(rng.uniform(0, 7 * 86_400, count), unit="s")
    return pd.DataFrame(
        {
            "id": [f"{seed}-{version}-{number}" for number in range(count)],
            "version": version,
            "delivered": True,
            "event_time": event_time,
            "subject_time": event_time + timedelta(hours=1),
            "prediction": 1 / (1 + np.exp(-(signal * late + rng.normal(size=count)))),
            "label": late,
            "in_carrier": rng.choice(["UA", "B6", "HA"], count, p=[0.5, 0.49, 0.01]),
            "in_origin": "JFK",
        }
    )


def test_a_champion_as_good_as_at_the_gate_is_good(contract: Contract) -> None:
    finding = judge(judged_rows(), 1, GATE, contract)
    assert finding.verdict == "good"
    assert finding.metric == pytest.approx(0.80, abs=0.02)
    assert finding.numbers["low"] < finding.metric < finding.numbers["high"]


def test_a_clear_drop_is_bad(contract: Contract) -> None:
    finding = judge(judged_rows(signal=0.8), 1, GATE, contract)
    assert finding.verdict == "bad"
    assert finding.numbers["difference_high"] < 0


def test_a_drop_that_chance_could_make_is_inconclusive(contract: Contract) -> None:
    finding = judge(judged_rows(600, signal=0.95), 1, {"value": 0.80, "interval": [0.70, 0.88]}, contract)
    assert finding.numbers["difference"] < -contract.monitors.performance.drop
    assert finding.verdict == "inconclusive"
    assert "chance" in finding.reason


def test_a_certain_drop_smaller_than_the_contract_names_is_good(contract: Contract) -> None:
    rows = judged_rows(100_000, signal=1.1)
    finding = judge(rows, 1, {"value": 0.80, "interval": [0.799, 0.801]}, contract)
    assert -contract.monitors.performance.drop < finding.numbers["difference"] < 0
    assert finding.numbers["difference_high"] < 0
    assert finding.verdict == "good"


def test_missing_labels_are_counted_and_never_taken_as_correct(contract: Contract) -> None:
    rows = judged_rows()
    lost = rows.sample(100, random_state=1).index
    whole = judge(rows.drop(lost), 1, GATE, contract)
    rows.loc[lost, "label"] = np.nan
    rows.loc[lost, "prediction"] = 1.0
    finding = judge(rows, 1, GATE, contract)
    assert finding.numbers["missing_labels"] == 100
    assert finding.metric == whole.metric


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.iloc[:0], "no judged rows"),
        (lambda rows: rows.iloc[:100], "fewer than 500"),
        (lambda rows: rows.assign(label=0.0), "one class"),
        (lambda rows: rows.assign(label=np.nan), "fewer than 500"),
        (lambda rows: rows.assign(label=rows["label"].where(np.arange(len(rows)) % 4 != 0)), "are missing"),
        (lambda rows: rows.assign(version=2), "no judged rows"),
        (lambda rows: rows.assign(subject_time=pd.Timestamp(START)), "one day"),
    ],
)
def test_too_little_to_judge_by_is_inconclusive_never_good_or_bad(contract: Contract, change: Any, reason: str) -> None:
    finding = judge(change(judged_rows(signal=0.1)), 1, GATE, contract)
    assert finding.verdict == "inconclusive"
    assert reason in finding.reason


def test_a_gate_record_without_a_value_judges_nothing(contract: Contract) -> None:
    assert gate_interval({}) is None
    assert gate_interval({"value": None, "interval": None}) is None
    assert judge(judged_rows(signal=0.1), 1, {"value": None}, contract).verdict == "inconclusive"


def test_the_champion_is_judged_on_its_own_rows_not_on_those_of_others(contract: Contract) -> None:
    own, other = judged_rows(), judged_rows(signal=0.0, version=2, seed=3)
    own["delivered"] = False
    finding = judge(pd.concat([own, other], ignore_index=True), 1, GATE, contract)
    assert finding.verdict == "good"
    assert finding.numbers["rows"] == len(own)
    assert finding.numbers["delivered"]["by_version"] == {"2": len(other)}
    assert finding.numbers["delivered"]["auc"] == pytest.approx(0.5, abs=0.05)


def test_slices_have_intervals_and_small_ones_only_a_count(contract: Contract) -> None:
    slices = judge(judged_rows(), 1, GATE, contract).numbers["slices"]
    assert set(slices) == {"carrier=UA", "carrier=B6", "carrier=HA", "origin=JFK"}
    assert slices["carrier=UA"]["low"] < slices["carrier=UA"]["auc"] < slices["carrier=UA"]["high"]
    assert "auc" not in slices["carrier=HA"]


def logged_and_joined(count: int = 200) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Equal features in the log and in the offline join, some missing on both sides."""
    transforms = find_transforms(SERVICE)
    rng = np.random.default_rng(2)
    joined = pd.DataFrame({name: rng.normal(size=count) for name in transforms.defaults})
    joined.iloc[::7] = np.nan
    logged = joined.add_prefix("ft_")
    logged["id"] = [f"id-{number:05d}" for number in range(count)]
    for view in transforms.views:
        logged[f"age_{view}"] = 60.0
    return logged, joined


def test_equal_features_are_no_skew() -> None:
    from monitoring.skew import _count_unequal

    logged, joined = logged_and_joined()
    numbers = _count_unequal(logged, joined, SERVICE)
    assert numbers["equal"] == 1.0
    assert numbers["columns"] == {}


def test_one_bit_of_difference_is_skew_and_its_column_is_named() -> None:
    from monitoring.skew import _count_unequal

    logged, joined = logged_and_joined()
    logged.loc[3, "ft_weather__temp"] = np.nextafter(joined.loc[3, "weather__temp"], np.inf)
    numbers = _count_unequal(logged, joined, SERVICE)
    assert numbers["unequal_rows"] == 1
    assert numbers["columns"] == {"weather__temp": 1 / 200}
    assert numbers["examples"] == ["id-00003"]


def test_a_value_online_that_is_missing_offline_is_skew() -> None:
    from monitoring.skew import _count_unequal

    logged, joined = logged_and_joined()
    joined.loc[3, "weather__temp"] = np.nan
    assert _count_unequal(logged, joined, SERVICE)["unequal_rows"] == 1


def test_a_view_that_was_out_of_reach_is_a_fallback_and_no_skew() -> None:
    from monitoring.skew import _count_unequal

    logged, joined = logged_and_joined()
    weather = [name for name in logged if str(name).startswith("ft_weather__")]
    logged.loc[3, weather] = np.nan
    logged.loc[3, "age_weather"] = np.nan
    numbers = _count_unequal(logged, joined, SERVICE)
    assert (numbers["unequal_rows"], numbers["fallback_rows"]) == (0, 1)


def test_a_log_without_features_says_nothing_of_skew() -> None:
    logged, joined = logged_and_joined()
    assert compare(logged[["id"]], joined, SERVICE).verdict == "inconclusive"


def ages(count: int = 100, **seconds: float) -> pd.DataFrame:
    views = find_transforms(SERVICE).views
    return pd.DataFrame({f"age_{view}": [seconds.get(view, 600.0)] * count for view in views})


NONE_DUE = pd.DataFrame({"label": pd.Series(dtype="float64")})


def test_fresh_features_are_good(contract: Contract) -> None:
    assert examine_freshness(ages(), NONE_DUE, contract).verdict == "good"


def test_a_dead_feed_warns_and_is_named(contract: Contract) -> None:
    finding = examine_freshness(ages(weather=3 * 3600.0), NONE_DUE, contract)
    assert finding.verdict == "warn"
    assert "weather" in finding.reason
    assert examine_freshness(ages(weather=np.nan), NONE_DUE, contract).verdict == "warn"


def test_a_daily_view_may_be_a_day_old(contract: Contract) -> None:
    assert examine_freshness(ages(route_history=23 * 3600.0), NONE_DUE, contract).verdict == "good"
    assert examine_freshness(ages(route_history=30 * 3600.0), NONE_DUE, contract).verdict == "warn"


def test_labels_that_stopped_coming_warn(contract: Contract) -> None:
    due = pd.DataFrame({"label": [np.nan] * 60 + [1.0] * 40})
    finding = examine_freshness(ages(), due, contract)
    assert finding.verdict == "warn"
    assert "60% of 100 labels" in finding.reason
    assert examine_freshness(ages(), due.iloc[40:], contract).verdict == "good"


def test_a_window_almost_without_rows_says_nothing_of_freshness(contract: Contract) -> None:
    assert examine_freshness(ages(5, weather=1e9), NONE_DUE, contract).verdict == "inconclusive"


def test_drift_compares_what_both_sides_have_and_no_moments_or_names(contract: Contract) -> None:
    reference = pd.DataFrame(
        {
            "in_carrier": ["UA"] * 50,
            "in_flight": range(50),
            "in_scheduled_departure": pd.Timestamp(START),
            "in_distance": 700.0,
            "ft_weather__temp": 50.0,
            "ft_weather__gone": 1.0,
            "prediction": 0.2,
        }
    )
    current = reference.drop(columns="ft_weather__gone").assign(ft_weather__temp=np.nan)
    numerical, categorical, left_out = choose_columns(current, reference, contract)
    assert numerical == ["in_distance", "prediction"]
    assert categorical == ["in_carrier"]
    assert left_out == ["ft_weather__temp", "ft_weather__gone"]


def test_many_columns_are_corrected_for() -> None:
    chance = {f"column{number}": (number + 1) / 101 for number in range(100)}
    assert _reject_by_holm(chance) == set()
    assert _reject_by_holm({"alone": 0.0009}) == {"alone"}
    assert _reject_by_holm({**chance, "column0": 0.0009}) == set()
    assert _reject_by_holm({**chance, "moved": 1e-9}) == {"moved"}


def test_rows_that_a_server_numbered_and_that_never_came_are_counted() -> None:
    from monitoring.quality import _count_gaps

    rows = pd.DataFrame({"server": ["a"] * 4 + ["b"] * 3, "sequence": [5, 6, 9, 10, 0, 1, 2]})
    assert _count_gaps(rows) == 2
    assert _count_gaps(rows.iloc[:0]) == 0
