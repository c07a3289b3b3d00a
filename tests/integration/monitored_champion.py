"""A champion with two weeks of real log, labels and features: good in the first week, decayed in the second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa

from feature_repo.history import join
from feature_repo.publishing import publish_offline
from feature_repo.store import open_store
from feature_repo.transforms import find_transforms
from slipway.bundle import MODEL as MODEL_FILE
from slipway.collector.parquet import write_parquet
from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.inference_log import folder_of, row_schema
from slipway.labels import Label, LabelStore
from slipway.ledger import open_ledger, progress, releases, versions
from slipway.snapshots import keep_snapshot, write_rows
from tests.integration import flight_revision

MODEL, SERVICE = flight_revision.MODEL, flight_revision.SERVICE
FIRST, SECOND, END = (datetime(2013, 3, day, tzinfo=UTC) for day in (7, 14, 21))
ROWS_A_DAY = 200


def make_champion(root: Path) -> Environment:
    """Version 1, promoted on the first day, with everything that its monitors read; the clock stands at END."""
    environment = flight_revision.make_environment(root)
    flight_revision.make_bundle(environment)
    rng = np.random.default_rng(5)
    _publish(environment, rng)
    asked = _ask(environment, rng, FIRST, END)
    snapshot_id = _keep_training_rows(environment, rng)
    scores = _score(environment, asked)
    asked["prediction"] = scores
    asked["id"] = [f"prediction-{number:06d}" for number in range(len(asked))]
    sharpness = np.where(asked["event_timestamp"] < SECOND, 9.0, 1.0)
    centred = (pd.Series(scores).rank(pct=True) - 0.75).to_numpy()
    asked["label"] = (rng.random(len(asked)) < 1 / (1 + np.exp(-sharpness * centred))).astype(int)
    _log(environment, asked)
    _label(environment, asked)
    with open_ledger(environment).transaction() as session:
        gate = {
            "verdict": "passed",
            "value": 0.88,
            "interval": [0.86, 0.90],
            "snapshot_id": snapshot_id,
            "training": {"start": "2013-02-27T00:00:00+00:00", "end": "2013-03-06T00:00:00+00:00"},
        }
        versions.add(session, MODEL, 1, digest="a" * 64, gate=gate, passed=True, as_of=FIRST)
        releases.promote(session, MODEL, 1, epoch=0, actor="test", reason="first", as_of=FIRST)
    move_clock(environment, END)
    return environment


def move_clock(environment: Environment, moment: datetime) -> None:
    """Event time goes on and the collector has caught up."""
    flight_revision.set_clock(environment, moment)
    with open_ledger(environment).transaction() as session:
        progress.report(session, "collector", moment)


def _publish(environment: Environment, rng: np.random.Generator) -> None:
    """Values of every view, three an hour, from before the training rows to the end, offline."""
    ticks = pd.date_range(FIRST - timedelta(days=10), END, freq="20min")
    domains = {"carrier": flight_revision.CARRIERS, "origin": ["JFK"], "dest": flight_revision.DESTS}
    for view in find_transforms(SERVICE).members:
        keys = pd.MultiIndex.from_product(
            [ticks, *(domains[key] for key in view.keys)], names=["event_timestamp", *view.keys]
        ).to_frame(index=False)
        values = {
            feature.name: rng.integers(0, 30, len(keys)) if feature.kind == "int" else rng.normal(50, 9, len(keys))
            for feature in view.features
        }
        publish_offline(environment, view.name, keys.assign(**values), as_of=END)


def _ask(environment: Environment, rng: np.random.Generator, start: datetime, end: datetime) -> pd.DataFrame:
    count = ROWS_A_DAY * (end - start).days
    rows = pd.DataFrame([flight_revision.instance(number) for number in rng.integers(0, 400, count).tolist()])
    moments = pd.Timestamp(start) + pd.to_timedelta(np.sort(rng.uniform(0, (end - start).total_seconds(), count)), "s")
    rows["event_timestamp"] = pd.Series(moments).dt.floor("s").astype("datetime64[us, UTC]")
    rows["scheduled_departure"] = rows["event_timestamp"] + timedelta(hours=1)
    return join(environment, SERVICE, rows, store=open_store(environment))


def _score(environment: Environment, rows: pd.DataFrame) -> np.ndarray:
    booster = lightgbm.Booster(model_file=str(environment.state.bundles / MODEL / "1" / MODEL_FILE))
    return np.asarray(booster.predict(find_transforms(SERVICE).matrix(rows).to_numpy(), num_threads=1))


def _keep_training_rows(environment: Environment, rng: np.random.Generator) -> str:
    rows = _ask(environment, rng, FIRST - timedelta(days=8), FIRST)
    file = environment.state.root / "training.parquet"
    write_rows(rows.assign(label=0.0, label_known_at=rows["scheduled_departure"]), file)
    return keep_snapshot(environment, file)


def _log(environment: Environment, asked: pd.DataFrame) -> None:
    transforms, contract = find_transforms(SERVICE), load_contract(MODEL)
    schema = row_schema(contract, dict.fromkeys(transforms.defaults, float), list(transforms.views))
    fields = {field.name: f"in_{field.name}" for field in contract.request}
    rows = asked.rename(columns={**fields, **{name: f"ft_{name}" for name in transforms.defaults}})
    rows = rows.assign(
        model=MODEL,
        version=1,
        delivered=True,
        event_time=asked["event_timestamp"],
        subject_time=asked["scheduled_departure"],
        received=asked["event_timestamp"],
        latency_ms=5.0,
        service=SERVICE,
        defaults=0,
        server="one",
        sequence=range(len(asked)),
        row=0,
        **{f"age_{view}": 1800.0 for view in transforms.views},
    )
    for day, part in rows.groupby(rows["event_time"].dt.date):
        table = pa.Table.from_pandas(part[schema.names], schema=schema, preserve_index=False)
        write_parquet(folder_of(environment, MODEL) / f"date={day}" / "rows.parquet", table)


def _label(environment: Environment, asked: pd.DataFrame) -> None:
    store = LabelStore(environment)
    moments = zip(asked["id"], asked["event_timestamp"], asked["scheduled_departure"], strict=True)
    store.register(MODEL, [(id_, event.to_pydatetime(), subject.to_pydatetime()) for id_, event, subject in moments])
    landed = asked["scheduled_departure"] + timedelta(hours=5)
    for day, part in asked.groupby(landed.dt.ceil("D")):
        labels = [
            Label(MODEL, row.id, int(row.label), row.scheduled_departure.to_pydatetime() + timedelta(hours=5))
            for row in part.itertuples()
        ]
        outcome = store.add(labels, as_of=pd.Timestamp(str(day)).to_pydatetime(), source="test")
        assert outcome.accepted == len(labels), outcome.problems[:3]
