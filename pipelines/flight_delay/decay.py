"""How a model of flight_delay ages: AUC by month of one that is never retrained, of one retrained before every month on
all that was known, and of one retrained on as many of the newest rows as the first one had.

`python -m pipelines.flight_delay.decay [--json FILE]` prints the table; two minutes on two idle cores. Same rows, same
transforms as in training and serving, labels only as they were known; intervals by bootstrap of whole days. It reads
the source's files alone: no platform needs to run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.definitions import EVENT_TIME, find_service
from feature_repo.flights.publications import compute
from feature_repo.flights.transforms import LOCAL
from feature_repo.transforms import find_transforms
from pipelines.flight_delay.events import ASKED_AHEAD
from pipelines.flight_delay.leaks import join_frames
from pipelines.flight_delay.source import read_flights, read_weather
from pipelines.flight_delay.training import baseline, fit
from slipway.contract import Contract, load_contract
from slipway.statistics import Interval, auc, auc_interval, paired_auc_difference

FIRST_MONTHS = 2
"""The first model is trained on January and February."""
POOLED = range(5, 11)
"""Months that are also judged together: May to October."""
DRAWS = 200


@dataclass(frozen=True)
class Month:
    """AUC in one month; intervals are [low, high] at 95 per cent, None where a policy has no model of its own."""

    month: str
    flights: int
    late: float
    baseline: float | None
    never: float | None
    never_interval: tuple[float, float] | None
    all_before: float | None = None
    recent: float | None = None
    gain: float | None = None
    """All before minus never, paired on the same rows."""
    gain_interval: tuple[float, float] | None = None


def read_rows(service: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All flights of the year as they were asked about, and their matrix. Rows by scheduled departure."""
    flights, weather = read_flights(), read_weather()
    start, end = pd.Timestamp("2013-01-01", tz="UTC"), pd.Timestamp("2014-01-02", tz="UTC")
    views = find_service(service)
    frames = {view.name: compute(view, flights, weather, start, end) for view in views}
    rows = flights.assign(**{EVENT_TIME: flights["scheduled_departure"] - ASKED_AHEAD})
    joined = pd.concat([rows, join_frames(views, rows, frames)], axis=1)
    return rows, find_transforms(service).matrix(joined)


class Study:
    """Trains by the contract's own settings and judges month by month."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.rows, self.matrix = read_rows(contract.features.service)
        local = self.rows["scheduled_departure"].dt.tz_convert(LOCAL)
        self.month = local.dt.month.to_numpy()
        self.day = local.dt.strftime("%Y-%m-%d").to_numpy()
        self.labels = self.rows["late"].to_numpy(dtype=np.float64)
        self.categorical = list(find_transforms(contract.features.service).categorical)

    def known_before(self, month: int) -> np.ndarray:
        """Positions of the rows whose outcome was known when the month began."""
        begins = self.rows.loc[self.month == month, "scheduled_departure"].min()
        return np.flatnonzero((self.month < month) & (self.rows["known_at"] < begins).to_numpy())

    def train(self, positions: np.ndarray) -> Any:
        training = self.contract.training
        return fit(
            self.matrix.iloc[positions],
            pd.Series(self.labels[positions]),
            parameters=training.parameters,
            rounds=training.rounds,
            seed=training.seed,
            categorical=self.categorical,
        )

    def run(self, last: int = 12) -> tuple[list[Month], Interval | None]:
        """The months from March on, and the gain of retraining over the pooled months."""
        first_rows = self.known_before(FIRST_MONTHS + 1)
        first = self.train(first_rows)
        months: list[Month] = []
        pooled: dict[str, list[np.ndarray]] = {"labels": [], "never": [], "all": [], "days": []}
        for month in range(FIRST_MONTHS + 1, last + 1):
            here = np.flatnonzero(self.month == month)
            labels, days = self.labels[here], self.day[here]
            never = np.asarray(first.predict(self.matrix.iloc[here]))
            interval = auc_interval(labels, never, days, draws=DRAWS)
            before = self.known_before(month)
            named: dict[str, Any] = {
                "month": pd.Timestamp(2013, month, 1).strftime("%b"),
                "flights": len(here),
                "late": float(labels.mean()),
                "baseline": auc(labels, baseline(self._labelled(first_rows), self.rows.iloc[here])),
                "never": auc(labels, never),
                "never_interval": (interval.low, interval.high) if interval else None,
            }
            if month > FIRST_MONTHS + 1:
                every = np.asarray(self.train(before).predict(self.matrix.iloc[here]))
                recent = np.asarray(self.train(before[-len(first_rows) :]).predict(self.matrix.iloc[here]))
                gain = paired_auc_difference(labels, never, every, days, draws=DRAWS)
                named |= {"all_before": auc(labels, every), "recent": auc(labels, recent)}
                if gain:
                    named |= {"gain": gain.estimate, "gain_interval": (gain.low, gain.high)}
                if month in POOLED:
                    for name, values in (("labels", labels), ("never", never), ("all", every), ("days", days)):
                        pooled[name].append(values)
            months.append(Month(**named))
            sys.stderr.write(f"{months[-1].month} judged\n")
        return months, _together(pooled)

    def _labelled(self, positions: np.ndarray) -> pd.DataFrame:
        return self.rows.iloc[positions].assign(label=self.labels[positions])


def _together(pooled: Mapping[str, Sequence[np.ndarray]]) -> Interval | None:
    if not pooled["labels"]:
        return None
    labels, never, every, days = (np.concatenate(pooled[name]) for name in ("labels", "never", "all", "days"))
    return paired_auc_difference(labels, never, every, days, draws=DRAWS)


def as_table(months: Sequence[Month]) -> str:
    """A Markdown table, one column a month."""
    lines = [
        "| AUC in | " + " | ".join(month.month for month in months) + " |",
        "|---|" + "---|" * len(months),
    ]
    fields = {
        "carrier x hour, from the first two months": "baseline",
        "trained on Jan-Feb, never again": "never",
        "trained on all months before": "all_before",
        "trained on the last rows of the first one's size": "recent",
    }
    for title, field in fields.items():
        lines.append(f"| {title} | " + " | ".join(_shown(getattr(month, field)) for month in months) + " |")
    lows = [_shown(month.gain_interval[0] if month.gain_interval else None) for month in months]
    lines.append("| 95 % of (second - first), low end | " + " | ".join(lows) + " |")
    lines.append("| late | " + " | ".join(f"{month.late:.0%}" for month in months) + " |")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="decay", description="AUC by month with and without retraining.")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    parser.add_argument("--last", type=int, default=12, choices=range(4, 13), help="last month (default: December)")
    options = parser.parse_args()
    months, pooled = Study(load_contract("flight_delay")).run(options.last)
    sys.stdout.write(as_table(months) + "\n")
    if pooled:
        low, value, high = pooled.low, pooled.estimate, pooled.high
        sys.stdout.write(f"\nMay to October together, retrained minus never: {value:+.4f} [{low:+.4f}, {high:+.4f}]\n")
    if options.json:
        document = {"months": [asdict(month) for month in months], "pooled": asdict(pooled) if pooled else None}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
