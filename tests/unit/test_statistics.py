"""The statistics against scikit-learn and against the plain way of writing them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from slipway.statistics import auc, auc_interval, calibration_error, paired_auc_difference

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=60)


def _flights(rows: int, days: int, *, signal: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    day = rng.integers(0, days, rows)
    late = rng.random(rows) < 0.25 + 0.1 * np.sin(day)
    scores = 1 / (1 + np.exp(-(signal * late + rng.normal(size=rows) + 0.3 * np.cos(day))))
    return late.astype(int), scores, day


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_auc_is_that_of_scikit_learn_with_ties(rows: list[tuple[int, int, int]]) -> None:
    labels, scores = [row[0] for row in rows], [row[1] / 6 for row in rows]
    if len(set(labels)) < 2:
        assert auc(labels, scores) is None
    else:
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(ROWS, st.integers(0, 5))
def test_an_interval_is_that_of_rows_copied_day_by_day(rows: list[tuple[int, int, int]], seed: int) -> None:
    labels, scores, days = (np.array([row[place] for row in rows]) for place in range(3))
    other = np.array([(row[1] * 3 + row[2]) % 7 for row in rows])
    names, drawn, differences = np.unique(days), [], []
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=20)
    for draw in draws:
        taken = np.repeat(np.arange(len(rows)), draw[np.searchsorted(names, days)])
        if len(set(labels[taken])) == 2:
            drawn.append(roc_auc_score(labels[taken], scores[taken]))
            differences.append(roc_auc_score(labels[taken], other[taken]) - drawn[-1])
    found = auc_interval(labels, scores, days, draws=20, seed=seed)
    paired = paired_auc_difference(labels, scores, other, days, draws=20, seed=seed)
    if len(names) < 2 or len(drawn) < 0.95 * 20:
        assert found is None
        assert paired is None
    else:
        assert found is not None
        assert paired is not None
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)
        assert (paired.low, paired.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-12)


def test_days_may_be_any_names_in_any_order() -> None:
    labels, scores, days = _flights(800, 7, signal=1, seed=4)
    dates = np.datetime64("2013-03-01") + days
    names = np.array([str(date) for date in dates], dtype=object)
    assert auc_interval(labels, scores, days) == auc_interval(labels, scores, dates)
    assert auc_interval(labels, scores, days) == auc_interval(labels, scores, names)


def test_no_interval_from_one_day_one_class_or_no_rows() -> None:
    assert auc_interval([0, 1, 1], [0.1, 0.2, 0.3], [1, 1, 1]) is None
    assert auc_interval([1, 1, 1], [0.1, 0.2, 0.3], [1, 2, 3]) is None
    assert auc_interval([], [], []) is None
    assert paired_auc_difference([], [], [], []) is None
    assert auc([], []) is None


def test_no_interval_when_many_draws_hold_one_class() -> None:
    labels = [1] + [0] * 20
    assert auc_interval(labels, np.linspace(0, 1, 21), range(21)) is None


def test_paired_differences_are_narrower_than_the_two_intervals() -> None:
    labels, scores, days = _flights(6000, 14, signal=1, seed=5)
    noisy = scores + np.random.default_rng(6).normal(scale=0.05, size=len(scores))
    difference = paired_auc_difference(labels, scores, noisy, days)
    alone = auc_interval(labels, scores, days)
    assert difference is not None
    assert alone is not None
    assert difference.half_width < alone.half_width / 2
    assert difference.high < 0


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = auc(*_flights(400_000, 400, signal=1, seed=99)[:2])
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        days = rng.integers(0, 400, 30)
        day = np.repeat(days, 60)
        late = rng.random(len(day)) < 0.25 + 0.1 * np.sin(day)
        scores = 1 / (1 + np.exp(-(late + rng.normal(size=len(day)) + 0.3 * np.cos(day))))
        found = auc_interval(late, scores, np.repeat(np.arange(30), 60), seed=seed)
        assert found is not None
        assert truth is not None
        covered += found.low <= truth <= found.high
    assert 178 <= covered <= 200


def test_calibration_error_is_zero_for_honest_scores_and_the_shift_for_shifted_ones() -> None:
    assert calibration_error([0, 0, 0, 1], [0.25] * 4) == 0
    assert calibration_error([0, 0, 0, 1], [0.65] * 4) == pytest.approx(0.4)
    assert calibration_error([1, 0], [1.0, 0.0]) == 0
    rng = np.random.default_rng(1)
    honest = rng.random(50_000)
    late = rng.random(50_000) < honest
    assert calibration_error(late, honest) < 0.01


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([0, 1, 2], [0.1, 0.2, 0.3]), ([0, 1, np.nan], [0.1, 0.2, 0.3]), ([0, 1], [0.1]), ([0, 1], [0.1, np.nan])],
)
def test_rows_that_cannot_be_judged_are_refused_rather_than_counted(labels: list[float], scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"labels|scores"):
        auc(labels, scores)


def test_calibration_refuses_scores_that_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        calibration_error([0, 1], [-0.1, 0.5])
    with pytest.raises(ValueError, match="no rows"):
        calibration_error([], [])


def test_a_gate_window_is_judged_in_well_under_a_second() -> None:
    labels, scores, days = _flights(13_000, 14, signal=1, seed=7)
    started = time.perf_counter()
    paired_auc_difference(labels, scores, scores[::-1].copy(), days, draws=400)
    assert time.perf_counter() - started < 1
