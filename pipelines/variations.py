"""Faults that a demonstration asks for in a run's options; in production the options are empty.

corrupt         {column: factor}: a source that changed its unit (metres for miles, Fahrenheit for Celsius)
shuffle_labels  true: training labels that say nothing, to make a worthless version
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from slipway.errors import InvalidInput, Problem


def apply_variations(rows: pd.DataFrame, training: pd.Series, options: Mapping[str, Any], seed: int) -> pd.DataFrame:
    """The snapshot's rows with the faults that `options` name; `training` masks the rows that will train.

    Raises InvalidInput for columns that are not there or hold no numbers.
    """
    factors: Mapping[str, float] = options.get("corrupt") or {}
    known = [str(name) for name in rows.columns if pd.api.types.is_numeric_dtype(rows[name])]
    wrong = [name for name in factors if name not in known]
    if wrong:
        hint = f"one of: {', '.join(known)}"
        raise InvalidInput([Problem(f"options.corrupt.{name}", "is no column of numbers", hint) for name in wrong])
    rows = rows.assign(**{name: rows[name] * float(factor) for name, factor in factors.items()})
    if options.get("shuffle_labels"):
        mixed = rows.loc[training, "label"].to_numpy().copy()
        np.random.default_rng(seed).shuffle(mixed)
        rows.loc[training, "label"] = mixed
    return rows
