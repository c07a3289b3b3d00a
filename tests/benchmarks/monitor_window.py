"""Monitor of a window of 100,000 rows and 20 columns: drift and quality, against Evidently's own preset."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from monitoring import drift, quality
from monitoring.reports import load_evidently, quiet
from slipway.contract import load_contract
from slipway.statistics import auc_interval
from tests.benchmarks.measurement import Figure, Spread, alternate, compare

ROWS, REFERENCE, COLUMNS = 100_000, 5_000, 20


def run(repeat: int) -> list[Figure]:
    """Ours measures all columns and draws ten; the preset draws all of them."""
    evidently = load_evidently()
    from evidently.presets import DataDriftPreset

    contract = load_contract("flight_delay")
    current, reference = _frame(ROWS, 0), _frame(REFERENCE, 1)
    names = [name for name in current if name.startswith("ft_") or name == "prediction"]
    definition = evidently.DataDefinition(numerical_columns=names)
    data = [evidently.Dataset.from_pandas(frame[names], data_definition=definition) for frame in (current, reference)]

    def preset() -> object:
        with quiet():
            return evidently.Report([DataDriftPreset(method="wasserstein", threshold=0.2)]).run(*data)

    spent = alternate(
        repeat, ours=lambda: _timed(lambda: drift.compare(current, reference, contract)), peer=lambda: _timed(preset)
    )
    labels = np.random.default_rng(2).random(ROWS) < current["prediction"]
    days = np.arange(ROWS) % 7
    small = alternate(
        repeat,
        quality=lambda: _timed(lambda: quality.inspect(current, reference, contract, [])),
        performance=lambda: _timed(lambda: auc_interval(labels, current["prediction"], days)),
    )
    note = f"{ROWS} x {COLUMNS} against {REFERENCE} reference rows"
    return [
        compare("monitor: drift", "s", spent["ours"], spent["peer"], "Evidently's DataDriftPreset", note),
        Figure("monitor: quality", "s", Spread.of(small["quality"]), note=note),
        Figure(
            "monitor: AUC with interval", "s", Spread.of(small["performance"]), note=f"{ROWS} rows, 400 draws of days"
        ),
    ]


def _frame(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({f"ft_view__{number}": rng.normal(size=rows) for number in range(COLUMNS)})
    return frame.assign(prediction=rng.random(rows), id=np.arange(rows).astype(str), defaults=0)


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
