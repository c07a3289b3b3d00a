"""What is said of a challenger, from which numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from slipway import analysis
from slipway.analysis import Finding
from slipway.contract import RolloutLimits, RolloutPlan
from slipway.targets import Answers

PLAN = RolloutPlan(min_labels=200, limits=RolloutLimits(errors=0.01, latency_ratio=1.5, auc_drop=0.02))


def counts_of(champion: tuple[int, int, float | None], challenger: tuple[int, int, float | None]) -> analysis.Counts:
    return {
        version: {"answers": answers, "errors": errors, "latency_p50": p50, "latency_p95": p50}
        for version, (answers, errors, p50) in {"1": champion, "2": challenger}.items()
    }


def verdicts(counts: analysis.Counts, *, percent: int = 10, early: bool = False) -> dict[str, str]:
    found = analysis.judge_health(counts, champion=1, challenger=2, percent=percent, plan=PLAN, early=early)
    return {finding.check: finding.verdict for finding in found}


def test_sound_answers_pass() -> None:
    found = verdicts(counts_of((900, 0, 0.010), (100, 0, 0.011)))
    assert found == {"starvation": "pass", "errors": "pass", "latency": "pass"}


def test_counts_of_one_version_alone_say_nothing() -> None:
    assert verdicts({"1": {"answers": 900, "errors": 0}}) == {"health": "inconclusive"}


@pytest.mark.parametrize(
    ("answers", "errors", "verdict"),
    [(100, 0, "pass"), (100, 1, "pass"), (100, 2, "inconclusive"), (100, 4, "fail"), (19, 0, "inconclusive"),
     (1000, 10, "pass"), (1000, 15, "inconclusive"), (1000, 16, "fail")],
)  # fmt: skip
def test_errors_fail_only_beyond_chance(answers: int, errors: int, verdict: str) -> None:
    assert verdicts(counts_of((9 * answers, 0, 0.01), (answers, errors, 0.01)))["errors"] == verdict


def test_between_looks_errors_must_be_beyond_doubt() -> None:
    counts = counts_of((900, 0, 0.01), (100, 5, 0.01))
    assert verdicts(counts)["errors"] == "fail"
    assert verdicts(counts, early=True)["errors"] == "inconclusive"
    assert verdicts(counts_of((900, 0, 0.01), (100, 8, 0.01)), early=True)["errors"] == "fail"


def test_errors_that_both_suffer_roll_nothing_back_and_promote_nothing() -> None:
    assert verdicts(counts_of((900, 90, 0.01), (100, 10, 0.01)))["errors"] == "inconclusive"


@pytest.mark.parametrize(
    ("p50", "verdict"),
    [(0.010, "pass"), (0.0165, "pass"), (0.018, "fail"), (None, "inconclusive")],
)
def test_latency_is_a_ratio_of_medians_with_the_resolution_of_the_gateway(p50: float | None, verdict: str) -> None:
    assert verdicts(counts_of((900, 0, 0.010), (100, 0, p50)))["latency"] == verdict


def test_a_slow_start_is_not_called_slow_between_looks() -> None:
    counts = counts_of((900, 0, 0.010), (100, 0, 0.025))
    assert (verdicts(counts)["latency"], verdicts(counts, early=True)["latency"]) == ("fail", "pass")


@pytest.mark.parametrize(
    ("champion", "challenger", "percent", "verdict"),
    [(900, 100, 10, "pass"), (995, 5, 10, "fail"), (100, 0, 10, "inconclusive"), (500, 0, 50, "fail"),
     (930, 70, 10, "pass")],
)  # fmt: skip
def test_starvation_is_far_fewer_answers_than_the_share(
    champion: int, challenger: int, percent: int, verdict: str
) -> None:
    counts = counts_of((champion, 0, 0.01), (challenger, 0, 0.01))
    assert verdicts(counts, percent=percent)["starvation"] == verdict


def test_attempts_that_a_dead_champion_failed_are_nobodys_share() -> None:
    counts = counts_of((422, 422, None), (14, 0, 0.006))
    assert verdicts(counts, percent=10)["starvation"] == "inconclusive"
    counts = counts_of((1422, 422, None), (110, 0, 0.006))
    assert verdicts(counts, percent=10)["starvation"] == "pass"


def test_a_sound_version_survives_many_glances() -> None:
    draw = np.random.default_rng(1)
    lost = 0
    for _ in range(200):
        errors = np.cumsum(draw.random(2000) < 0.005)  # half of the limit
        glances = [
            verdicts(counts_of((9 * n, 0, 0.01), (n, int(errors[n - 1]), 0.01)), early=True)["errors"]
            for n in range(20, 2001, 60)
        ]
        lost += "fail" in glances
    assert lost <= 4


def test_counting_starts_at_the_first_reading_and_survives_counters_that_begin_anew() -> None:
    morning, noon = datetime(2013, 3, 1, 6, tzinfo=UTC), datetime(2013, 3, 1, 12, tzinfo=UTC)
    counts: analysis.Counts = {}
    for answers in (
        Answers(100, 3, 0.01, 0.02, morning),
        Answers(150, 4, 0.01, 0.02, morning),
        Answers(20, 1, 0.01, 0.02, noon),  # fewer: a new gateway
        Answers(60, 2, 0.01, 0.02, noon),
        Answers(70, 9, 0.01, 0.02, datetime(2013, 3, 1, 18, tzinfo=UTC)),  # more, but the gateway says it began anew
    ):
        counts = analysis.add_counts(counts, {1: answers})
    assert (counts["1"]["answers"], counts["1"]["errors"]) == (50 + 20 + 40 + 70, 1 + 1 + 1 + 9)
    assert analysis.count_answers(counts, 1, 2) == 180


def log_rows(entries: list[tuple[str, int, float, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(entries, columns=["id", "version", "prediction", "label"])
    frame["subject_time"] = pd.Timestamp("2013-03-01T10:00Z")
    return frame


def test_only_requests_that_both_versions_scored_are_pairs() -> None:
    rows = log_rows([("a", 1, 0.1, 0), ("a", 2, 0.2, 0), ("b", 1, 0.3, 1), ("c", 2, 0.4, 1), ("d", 1, np.nan, 1)])
    pairs = analysis.pair_rows(pd.concat([rows, log_rows([("d", 2, 0.5, 1)])]), champion=1, challenger=2)
    assert pairs[["champion", "challenger", "label"]].to_numpy().tolist() == [[0.1, 0.2, 0.0]]
    assert pairs["day"].tolist() == [pd.Timestamp("2013-03-01T00:00Z")]


def make_pairs(better: float, rows: int = 2000, days: int = 8, **columns: Any) -> pd.DataFrame:
    draw = np.random.default_rng(3)
    label = draw.integers(0, 2, rows).astype(float)
    noise = draw.normal(size=rows)
    day = pd.Timestamp("2013-03-01", tz="UTC") + pd.to_timedelta(np.arange(rows) % days, unit="D")
    return pd.DataFrame(
        {"day": day, "champion": noise + label, "challenger": noise + label * (1 + better), "label": label, **columns}
    )


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        (make_pairs(0.3), "pass"),
        (make_pairs(0.0), "pass"),
        (make_pairs(-0.5), "fail"),
        (make_pairs(0.3, rows=150), "inconclusive"),  # too few labels
        (make_pairs(0.3, days=2), "inconclusive"),  # too few days
        (make_pairs(0.3, label=1.0), "inconclusive"),  # one class
        (make_pairs(0.3, label=np.nan), "inconclusive"),  # no labels
        (make_pairs(0.3).iloc[:0], "inconclusive"),
    ],
)
def test_quality_is_the_paired_difference_over_days(pairs: pd.DataFrame, verdict: str) -> None:
    assert analysis.judge_quality(pairs, plan=PLAN).verdict == verdict


def test_an_interval_on_both_sides_of_the_limit_is_inconclusive() -> None:
    pairs = make_pairs(0.0, rows=300)
    pairs["challenger"] = np.random.default_rng(5).normal(size=300) + pairs["label"]
    finding = analysis.judge_quality(pairs, plan=PLAN)
    assert finding.numbers["low"] < -PLAN.limits.auc_drop < finding.numbers["high"]
    assert finding.verdict == "inconclusive"


def test_missing_labels_are_counted_and_not_judged() -> None:
    pairs = make_pairs(0.3)
    pairs.loc[:99, "label"] = np.nan
    finding = analysis.judge_quality(pairs, plan=PLAN)
    assert (finding.numbers["labels"], finding.numbers["missing_labels"]) == (1900, 100)


def test_worse_for_certain_but_within_what_is_allowed_passes() -> None:
    finding = analysis.judge_quality(make_pairs(-0.05), plan=PLAN)
    assert finding.numbers["high"] < 0
    assert finding.verdict == "pass"


@pytest.mark.parametrize(
    ("said", "verdict"),
    [(["pass", "pass"], "pass"), (["pass", "inconclusive"], "inconclusive"), (["inconclusive", "fail"], "fail"),
     ([], "inconclusive")],
)  # fmt: skip
def test_findings_combine_to_the_worst_and_none_at_all_is_a_doubt(said: list[Any], verdict: str) -> None:
    assert analysis.combine([Finding("x", one, "") for one in said]) == verdict
