"""The gate: what passes, what is refused and why, and that a missing number is never a pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.steps.gate import judge
from slipway.contract import Contract
from tests.unit.parcels import contract_of

SMALL = 900_000


def scores_of(rows: int = 6000, *, challenger: float, champion: float | None = None, seed: int = 1) -> pd.DataFrame:
    """Rows of fourteen days; each scorer sees the true probability through noise of the given size."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1.0, 1.2, rows)
    frame = pd.DataFrame(
        {
            "label": (random.random(rows) < _sigmoid(logit)).astype(float),
            "day": [f"2013-03-{1 + i % 14:02d}" for i in range(rows)],
            "hour": np.arange(rows) % 24,
            "route": np.where(np.arange(rows) % 3, "north", "south"),
            "baseline": 0.3,
            "challenger": _sigmoid(logit + random.normal(0, challenger, rows)),
        }
    )
    frame["baseline"] = _sigmoid(logit * 0.2 - 1 + random.normal(0, 1, rows))
    if champion is not None:
        frame["champion"] = _sigmoid(logit + random.normal(0, champion, rows))
    return frame


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def judged(scores: pd.DataFrame, contract: Contract | None = None, **changed: Any) -> dict[str, Any]:
    champion = 3 if "champion" in scores else None
    given: dict[str, Any] = {"latency_ratio": 1.0, "size": SMALL, "judged_before": 0, "champion": champion} | changed
    return judge(contract or contract_of(), scores, **given)


def failed(record: dict[str, Any]) -> list[str]:
    return [check["name"] for check in record["checks"] if not check["passed"]]


def test_a_good_first_version_passes_floors_and_baseline() -> None:
    record = judged(scores_of(challenger=0.1))
    assert record["verdict"] == "passed", record["reasons"]
    assert record["champion"] is None
    assert record["value"] > record["baseline_value"]


def test_a_worthless_first_version_is_refused() -> None:
    scores = scores_of(challenger=0.1)
    scores["challenger"] = np.random.default_rng(5).permutation(scores["challenger"])
    record = judged(scores)
    assert record["verdict"] == "refused"
    assert {"auc_floor", "better_than_baseline"} <= set(failed(record))


def test_a_first_version_no_better_than_the_baseline_is_refused_though_above_the_floor() -> None:
    scores = scores_of(challenger=0.3)
    scores["baseline"] = scores["challenger"]
    assert failed(judged(scores)) == ["better_than_baseline"]


def test_a_first_version_that_is_badly_calibrated_is_refused() -> None:
    scores = scores_of(challenger=0.1)
    scores["challenger"] = 0.5 + scores["challenger"] / 2
    assert failed(judged(scores)) == ["calibration_error"]


def test_not_worse_passes_an_equal_challenger_and_better_refuses_it() -> None:
    scores = scores_of(challenger=0.1)
    scores["champion"] = scores["challenger"]
    assert judged(scores)["verdict"] == "passed"
    assert failed(judged(scores, contract_of(rule="better"))) == ["better"]


def test_a_challenger_worse_than_the_margin_is_refused() -> None:
    record = judged(scores_of(challenger=1.5, champion=0.1))
    assert "not_worse" in failed(record)
    assert record["difference"]["high"] < 0
    assert record["champion_value"] > record["value"]


def test_a_better_challenger_passes_the_rule_better() -> None:
    record = judged(scores_of(challenger=0.1, champion=1.5), contract_of(rule="better"))
    assert record["verdict"] == "passed", record["reasons"]


def test_a_slice_that_collapses_is_refused_though_the_whole_is_not_worse() -> None:
    scores = scores_of(12_000, challenger=0.05, champion=0.8)
    south = scores["route"] == "south"
    scores.loc[south, "champion"] = scores.loc[south, "challenger"]
    mixed = scores.loc[south, "challenger"] * 0.2 + np.random.default_rng(2).random(int(south.sum())) * 0.6
    scores.loc[south, "challenger"] = mixed
    record = judged(scores, contract_of(floors={"auc": 0.6, "calibration_error": 1.0}, margin=0.2))
    assert failed(record) == ["slice.route=south"]


def test_slices_outside_the_contract_are_reported_but_do_not_decide() -> None:
    record = judged(scores_of(challenger=0.3, champion=0.3), contract_of(slices=[]))
    assert {row["slice"] for row in record["slices"]} == {"hour"}
    assert not [check for check in record["checks"] if check["name"].startswith("slice.")]


def test_small_slices_are_reported_but_not_judged() -> None:
    record = judged(scores_of(600, challenger=1.5, champion=0.1))
    assert all("difference" not in row for row in record["slices"] if row["rows"] < 300)


def test_a_slow_or_large_challenger_is_refused() -> None:
    scores = scores_of(challenger=0.1, champion=0.3)
    assert failed(judged(scores, latency_ratio=3.5)) == ["latency_ratio"]
    assert failed(judged(scores, size=200_000_000)) == ["bytes"]


@pytest.mark.parametrize("rows", [0, 1, 40])
def test_too_few_rows_are_never_a_pass(rows: int) -> None:
    scores = scores_of(6000, challenger=0.1, champion=0.3).head(rows).assign(day="2013-03-01")
    record = judged(scores)
    assert record["verdict"] == "refused"
    assert "not_worse" in failed(record)


@pytest.mark.parametrize("champion", [None, 0.1])
def test_one_class_is_never_a_pass(champion: float | None) -> None:
    record = judged(scores_of(challenger=0.1, champion=champion).assign(label=0.0))
    assert record["verdict"] == "refused"
    assert record["value"] is None


def test_a_missing_latency_is_a_refusal() -> None:
    record = judged(scores_of(challenger=0.1, champion=0.3), latency_ratio=None)
    assert failed(record) == ["latency_ratio"]
    assert record["reasons"] == ["latency_ratio: not measured"]


def test_where_the_champion_is_badly_calibrated_too_the_challenger_need_not_be_better() -> None:
    scores = scores_of(challenger=0.1)
    scores["challenger"] = 0.3 + scores["challenger"] * 0.7
    scores["champion"] = 0.35 + scores["challenger"] * 0.6
    record = judged(scores)
    assert record["calibration_error"] > 0.1
    assert record["verdict"] == "passed", record["reasons"]


def test_each_version_judged_on_the_same_window_widens_the_interval() -> None:
    scores = scores_of(1500, challenger=0.6, champion=0.6)
    once, often = judged(scores), judged(scores, judged_before=9)
    assert often["judged_on_this_window"] == 10
    assert often["level"] == pytest.approx(0.995)
    assert often["difference"]["low"] < once["difference"]["low"]


def test_the_record_names_every_number_and_limit() -> None:
    record = judged(scores_of(challenger=0.1, champion=0.3))
    assert {
        "verdict", "reasons", "metric", "value", "interval", "champion", "champion_value", "difference", "checks",
        "slices", "latency_ratio", "bytes", "judged_on_this_window", "level", "window", "calibration_error",
    } <= record.keys()  # fmt: skip
    assert all({"name", "value", "limit", "passed", "because"} == check.keys() for check in record["checks"])
