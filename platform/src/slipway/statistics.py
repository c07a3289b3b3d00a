"""The statistics by which gate, canary and performance monitors judge a version: numpy only, seeded, exact on ties.

Rows of one day share their weather and their jams, so every interval resamples whole days, never rows. The area under
the curve is a sum over pairs of a positive and a negative row; grouped by the days of the two it is a small matrix, and
a draw of days is a quadratic form of that matrix. So the pairs are counted once, however many draws are made.

Does not decide anything: thresholds and verdicts belong to the callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MOST_DRAWS_LOST = 0.05
"""Share of draws that may hold only one class; with more, the rows are too few to say anything."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it, all in the unit of the metric."""

    low: float
    estimate: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve: the share of (positive, negative) pairs that the scores put in order, ties half.

    `labels` are 0 or 1, `scores` any finite numbers, both of shape (rows,). None for one class or no rows. ValueError
    for anything else, missing labels included: what to do with those is the caller's decision.
    """
    truth, (values,) = _checked(labels, scores)
    positives, negatives = values[truth], np.sort(values[~truth])
    if not positives.size or not negatives.size:
        return None
    return float(_pairs_won(positives, negatives).sum() / (positives.size * negatives.size))


def calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: |mean score - share of positives|, weighted over equal-width bins of [0, 1].

    Source: Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning" (2015).
    ValueError for no rows, for labels that are not 0 or 1 and for scores outside [0, 1].
    """
    truth, (values,) = _checked(labels, scores)
    if not values.size:
        raise ValueError("calibration of no rows")
    if values.min() < 0 or values.max() > 1:
        raise ValueError("calibration needs probabilities: scores lie outside [0, 1]")
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    score_sums = np.bincount(place, weights=values, minlength=bins)
    label_sums = np.bincount(place, weights=truth.astype(np.float64), minlength=bins)
    return float(np.abs(score_sums - label_sums).sum() / values.size)


def auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    days: ArrayLike,
    *,
    draws: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Percentile interval of the AUC, bootstrapped by day.

    `days` has shape (rows,) and any dtype that can be compared: rows with equal values are drawn together. None for one
    class, for fewer than two days, and when more than 5 % of the draws hold one class. With n days the interval is
    narrow by about sqrt((n - 1) / n), as every percentile bootstrap is.
    """
    truth, (values,) = _checked(labels, scores)
    blocks = _blocks(days, truth.size)
    weights = _draw_days(blocks, draws, seed)
    if weights is None:
        return None
    return _interval(auc(truth, values), _drawn_auc(truth, values, blocks, weights), level)


def paired_auc_difference(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    days: ArrayLike,
    *,
    draws: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Percentile interval of AUC(b) - AUC(a) on the same rows, both versions judged on the same draws of days.

    Arguments and None as in `auc_interval`.
    """
    truth, (first, second) = _checked(labels, scores_a, scores_b)
    blocks = _blocks(days, truth.size)
    weights = _draw_days(blocks, draws, seed)
    before, after = auc(truth, first), auc(truth, second)
    if weights is None or before is None or after is None:
        return None
    drawn = _drawn_auc(truth, second, blocks, weights) - _drawn_auc(truth, first, blocks, weights)
    return _interval(after - before, drawn, level)


def _checked(labels: ArrayLike, *scores: ArrayLike) -> tuple[NDArray[np.bool_], list[Floats]]:
    """Labels as booleans and scores as float64. ValueError for shapes that differ, other labels, lost numbers."""
    truth = np.asarray(labels)
    columns = [np.asarray(column, dtype=np.float64) for column in scores]
    if truth.ndim != 1 or any(column.shape != truth.shape for column in columns):
        raise ValueError(f"labels and scores differ in shape: {truth.shape}, {[c.shape for c in columns]}")
    if truth.dtype != np.bool_:
        truth = truth.astype(np.float64)
        if not np.isin(truth, (0.0, 1.0)).all():
            raise ValueError("labels are not all 0 or 1")
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("scores are not all finite")
    return truth.astype(np.bool_), columns


def _pairs_won(positives: Floats, negatives: Floats) -> Floats:
    """For each positive the number of (sorted) negatives below it, ties half."""
    below = np.searchsorted(negatives, positives, side="left")
    up_to = np.searchsorted(negatives, positives, side="right")
    return (below + up_to) / 2.0


def _blocks(days: ArrayLike, rows: int) -> NDArray[np.intp]:
    """The days numbered 0 .. n-1, one number a row."""
    values: NDArray[Any] = np.asarray(days)
    if values.shape != (rows,):
        raise ValueError(f"days differ in shape from labels: {values.shape}, ({rows},)")
    return np.unique(values, return_inverse=True)[1]


def _draw_days(blocks: NDArray[np.intp], draws: int, seed: int) -> Floats | None:
    """How often each day stands in each draw, shape (draws, days); None with fewer than two days."""
    count = int(blocks.max()) + 1 if blocks.size else 0
    if count < 2:
        return None
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def _drawn_auc(truth: NDArray[np.bool_], scores: Floats, blocks: NDArray[np.intp], weights: Floats) -> Floats:
    """AUC of each draw, shape (draws,); nan where a draw holds one class."""
    count = weights.shape[1]
    order = np.argsort(scores, kind="stable")
    truth, scores, blocks = truth[order], scores[order], blocks[order]
    positives, positive_days = scores[truth], blocks[truth]
    won = np.empty((count, count))
    for day in range(count):
        negatives = scores[~truth & (blocks == day)]
        won[:, day] = np.bincount(positive_days, weights=_pairs_won(positives, negatives), minlength=count)
    positive_rows = np.bincount(positive_days, minlength=count)
    negative_rows = np.bincount(blocks, minlength=count) - positive_rows
    pairs = (weights @ positive_rows) * (weights @ negative_rows)
    ordered: Floats = ((weights @ won) * weights).sum(axis=1)
    ordered[pairs == 0] = np.nan
    return ordered / np.where(pairs > 0, pairs, 1.0)


def _interval(estimate: float | None, drawn: Floats, level: float) -> Interval | None:
    """Percentiles of the draws that held both classes; None when too many did not."""
    conclusive = drawn[np.isfinite(drawn)]
    if estimate is None or conclusive.size < (1 - MOST_DRAWS_LOST) * drawn.size:
        return None
    low, high = np.quantile(conclusive, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(estimate), float(high))
