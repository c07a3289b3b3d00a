"""Scores of a version on snapshot rows, through that version's own transforms: the same path as in serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo.transforms import Transforms, find_transforms
from slipway.bundle import MODEL, Manifest, fetch_bundle, verify_bundle
from slipway.contract import Contract
from slipway.environment import Environment
from slipway.errors import Refused
from slipway.signing import public_key_of

if TYPE_CHECKING:
    from lightgbm import Booster

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scorer:
    """A booster with the transforms that it was trained through."""

    booster: Booster
    transforms: Transforms

    def score(self, rows: pd.DataFrame) -> Floats:
        """Probabilities of the rows (request fields and `view__feature` columns), shape (rows,)."""
        matrix = self.transforms.matrix(rows)
        return np.asarray(self.booster.predict(matrix.to_numpy(), num_threads=1), dtype=np.float64)


def open_model(file: Path, service: str) -> Scorer:
    """The scorer of a model file that this run has made."""
    import lightgbm

    return Scorer(lightgbm.Booster(model_file=str(file)), find_transforms(service))


def open_version(environment: Environment, model: str, version: int) -> tuple[Scorer, Manifest]:
    """The scorer of a registered version, from its verified copy. Raises Refused when its transforms are not here."""
    folder = fetch_bundle(environment, model, version)
    manifest = verify_bundle(folder, model=model, version=version, public_key=public_key_of(environment))
    scorer = open_model(folder / MODEL, manifest.feature_service)
    if scorer.transforms.hash != manifest.transforms_hash:
        raise Refused(
            f"{model} {version}: was made with other transforms of {manifest.feature_service} than there are here",
            hint="transforms are versioned: a changed one gets a new service name",
        )
    return scorer, manifest


def plain_rows(contract: Contract, rows: pd.DataFrame, features: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Rows as a client sends them and a store gives them: requests and features in plain JSON values."""
    names = [field.name for field in contract.request]
    requests = [dict(zip(names, map(_plain, row), strict=True)) for row in rows[names].itertuples(index=False)]
    values = [
        dict(zip(features, map(_plain, row), strict=True)) for row in rows[list(features)].itertuples(index=False)
    ]
    return requests, values


def _plain(value: Any) -> Any:
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value
