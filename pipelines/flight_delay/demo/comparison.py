"""The living system against its own first version, never retrained, on the same flights.

Rows are the delivered answers of the inference log whose labels are due. The first version's scores come from its own
signed bundle through its own transforms, on the features that were logged when the flight was really asked about.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.flight_delay.demo.facts import Comparison, Estimate, Month, Span
from slipway import statistics
from slipway.contract import Contract
from slipway.environment import Environment

if TYPE_CHECKING:
    import lightgbm
    import pandas as pd

    from feature_repo.transforms import Transforms
    from slipway.bundle import Manifest

INPUT, FEATURE = "in_", "ft_"
"""Prefixes of the request's fields and of the looked-up features in the inference log."""


def compare_versions(
    environment: Environment, contract: Contract, *, first_version: int, champions: list[Span], until: datetime
) -> Comparison | None:
    """AUC by month and pooled since the first automatic promotion; None when there was none or nothing is labelled."""
    from slipway import cohorts

    promoted = [span for span in champions if span.version != first_version]
    if not promoted:
        return None
    start = champions[0].start
    as_of = environment.clock.as_of()
    rows = cohorts.judged_rows(environment, contract, start, as_of, as_of=as_of, delivered=True)
    rows = rows[rows["label"].notna()].reset_index(drop=True)
    booster, manifest = load_version(environment, contract.model, first_version)
    # A client that asks again gets two answers to one flight: the first one counts.
    rows = rows.sort_values("received", kind="stable").drop_duplicates("id").reset_index(drop=True)
    rows = _with_features_of(environment, contract.model, rows, manifest.feature_service, start, as_of)
    if rows.empty:
        return None
    scores = rows[["subject_time", "label", "version"]].copy()
    scores["living"] = rows["prediction"].to_numpy(dtype=float)
    transforms = _transforms(manifest.feature_service)
    matrix = transforms.matrix(logged_features(rows))
    scores["first"] = booster.predict(matrix)
    scores["recent"] = scores["first"]
    size = manifest.training.rows
    for version in sorted({span.version for span in promoted} & set(scores["version"])):
        twin = fit_twin(environment, contract, version, transforms, size)
        answered = (scores["version"] == version).to_numpy()
        scores.loc[answered, "recent"] = twin.predict(matrix[answered])
    return summarize(scores, since=promoted[0].start, until=until, recent_rows=size)


def load_version(environment: Environment, model: str, version: int) -> tuple[lightgbm.Booster, Manifest]:
    """The booster of a version, from its verified bundle."""
    import lightgbm

    from slipway import bundle, signing

    folder: Path = bundle.fetch_bundle(environment, model, version)
    key = signing.public_key_of(environment)
    manifest = bundle.verify_bundle(folder, model=model, version=version, public_key=key)
    return lightgbm.Booster(model_file=str(folder / "model.txt")), manifest


def _transforms(service: str) -> Transforms:
    from feature_repo.transforms import find_transforms

    return find_transforms(service)


def _with_features_of(
    environment: Environment, model: str, rows: pd.DataFrame, service: str, start: datetime, end: datetime
) -> pd.DataFrame:
    """Give rows answered through another feature service the features of their copy that used this one.

    While a challenger runs, the version that does not answer scores a copy of each request; that copy has the same id.
    Rows without such a copy are left out.
    """
    import pandas as pd

    from slipway import inference_log

    foreign = rows["service"] != service
    if not foreign.any():
        return rows
    copies = inference_log.read_rows(environment, model, start, end, delivered=False)
    copies = copies[copies["service"] == service].drop_duplicates("id").set_index("id")
    replaced = rows[foreign & rows["id"].isin(copies.index)].copy()
    for column in (name for name in copies.columns if name.startswith(FEATURE)):
        replaced[column] = copies[column].reindex(replaced["id"]).to_numpy()
    return pd.concat([rows[~foreign], replaced], ignore_index=True)


def logged_features(rows: pd.DataFrame) -> pd.DataFrame:
    """Request fields and view__feature columns, as the transforms take them, from logged rows."""
    names = {name: name.removeprefix(INPUT).removeprefix(FEATURE) for name in rows.columns}
    kept = [name for name in rows.columns if name.startswith((INPUT, FEATURE))]
    return rows[kept].rename(columns=names)


def fit_twin(
    environment: Environment, contract: Contract, version: int, transforms: Transforms, size: int
) -> lightgbm.Booster:
    """A model of the same parameters as `version`, from the same moment, on only the `size` most recent rows."""
    from feature_repo import history
    from pipelines.flight_delay import dataset
    from pipelines.flight_delay.training import fit
    from pipelines.split import split_of

    _, manifest = load_version(environment, contract.model, version)
    as_of = manifest.created_as_of
    rows = dataset.entities(environment, start=manifest.training.start, end=as_of, as_of=as_of)
    known = rows[split_of(contract, as_of).training(contract, rows)]
    joined = history.join(environment, transforms.service, known.sort_values("event_timestamp").tail(size))
    return fit(
        transforms.matrix(joined),
        joined["label"],
        parameters=contract.training.parameters,
        rounds=contract.training.rounds,
        seed=contract.training.seed,
        categorical=list(transforms.categorical),
    )


def summarize(scores: pd.DataFrame, *, since: datetime, until: datetime, recent_rows: int) -> Comparison:
    """Numbers from `scores`: subject_time (UTC), label (0/1), living, first, recent (probabilities)."""
    months = []
    for period, rows in scores.groupby(scores["subject_time"].dt.strftime("%Y-%m")):
        months.append(
            Month(
                month=datetime.fromisoformat(f"{period}-01T00:00:00+00:00"),
                flights=len(rows),
                late=float(rows["label"].mean()),
                living=_auc(rows, "living"),
                first=_auc(rows, "first"),
                recent=_auc(rows, "recent"),
                difference=_difference(rows, "first", "living"),
            )
        )
    pooled = scores[(scores["subject_time"] >= since) & (scores["subject_time"] < until)]
    return Comparison(
        months=months,
        since=since,
        until=until,
        flights=len(pooled),
        days=int(_days(pooled).max() + 1) if len(pooled) else 0,
        pooled=_difference(pooled, "first", "living"),
        pooled_living=_auc(pooled, "living"),
        pooled_first=_auc(pooled, "first"),
        pooled_recent=_auc(pooled, "recent"),
        recent_difference=_difference(pooled, "recent", "living"),
        recent_rows=recent_rows,
    )


def _days(rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of each row's day, counted from 0 without gaps."""
    _, numbers = np.unique(rows["subject_time"].dt.strftime("%Y-%m-%d").to_numpy(dtype=str), return_inverse=True)
    return np.asarray(numbers, dtype=np.int64)


def _auc(rows: pd.DataFrame, column: str) -> Estimate | None:
    labels, scores = rows["label"].to_numpy(dtype=int), rows[column].to_numpy(dtype=float)
    return _estimate(statistics.auc_interval(labels, scores, _days(rows)))


def _difference(rows: pd.DataFrame, before: str, after: str) -> Estimate | None:
    labels = rows["label"].to_numpy(dtype=int)
    a, b = rows[before].to_numpy(dtype=float), rows[after].to_numpy(dtype=float)
    return _estimate(statistics.paired_auc_difference(labels, a, b, _days(rows)))


def _estimate(interval: statistics.Interval | None) -> Estimate | None:
    if interval is None:
        return None
    return Estimate(low=interval.low, value=interval.estimate, high=interval.high)
