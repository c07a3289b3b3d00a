"""Requests, features and answers of one revision, in process: what is refused, what falls back, what is logged."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import pandas as pd
import pytest
from prometheus_client import CollectorRegistry

from feature_repo.transforms import find_transforms
from slipway import spool
from slipway.bundle import Manifest, TrainingSpan
from slipway.contract import Contract, load_contract
from slipway.errors import InvalidInput
from slipway.inference_log import row_schema
from slipway.request_schema import MAX_ROWS, RequestSchema
from slipway.settings import REPOSITORY

# KServe reads the command line when it is imported, and must not take pytest's for its own.
sys.argv, _argv = ["pytest"], sys.argv
from serving import features  # noqa: E402
from serving.features import FeatureSource  # noqa: E402
from serving.metrics import Metrics  # noqa: E402
from serving.predictor import Predictor  # noqa: E402
from serving.revision import Revision  # noqa: E402
from serving.routes import MAX_BODY, Application  # noqa: E402

sys.argv = _argv

MODEL, SERVICE = "flight_delay", "flight_delay_v1"
NOW = datetime(2013, 3, 1, 12, tzinfo=UTC)
TRANSFORMS = find_transforms(SERVICE)
VIEWS = len(TRANSFORMS.views)


def row(**changes: Any) -> dict[str, Any]:
    fine = {
        "carrier": "UA", "flight": 100, "origin": "JFK", "dest": "BOS",
        "scheduled_departure": "2013-03-01T13:00:00Z", "scheduled_minutes": 75, "distance": 187.0,
    }  # fmt: skip
    return {**fine, **changes}


def tensors(rows: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    datatypes = dict.fromkeys(("carrier", "origin", "dest", "scheduled_departure"), "BYTES")
    datatypes |= {"flight": "INT64", "scheduled_minutes": "INT32", "distance": "FP64"}
    inputs = [
        {"name": name, "shape": [len(rows)], "datatype": kind, "data": [r[name] for r in rows]}
        for name, kind in datatypes.items()
    ]
    return {"inputs": inputs, **changes}


class FixedClock:
    def as_of(self) -> datetime:
        return NOW


class Store:
    """A feature store that knows everything, or behaves as it is told."""

    def __init__(self, behave: Callable[[], None] = lambda: None) -> None:
        self.behave = behave
        self.reads = 0

    def read_columns(self, keys: Mapping[str, Sequence[Hashable]], *, as_of: datetime) -> tuple[np.ndarray, np.ndarray]:
        self.reads += 1
        self.behave()
        length = len(keys["origin"])
        return np.full((length, len(TRANSFORMS.defaults)), 5.0), np.full((length, VIEWS), 60.0)


def source(store: Store, timeout: float = 5.0) -> FeatureSource:
    return FeatureSource(lambda: store, TRANSFORMS.views, ["carrier", "origin", "dest"], timeout=timeout)


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame([row(distance=float(200 + n)) for n in range(200)])
    for name in TRANSFORMS.defaults:
        rows[name] = rng.integers(0, 30, len(rows)).astype(float)
    labels = (rows["origin_traffic__overdue"] > 15).astype(int)
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    return lightgbm.train(parameters, lightgbm.Dataset(TRANSFORMS.matrix(rows), labels), num_boost_round=5)


class Served:
    """The application of a revision with its log, asked without a network."""

    def __init__(
        self, folder: Path, booster: lightgbm.Booster, store: Store, contract: Contract, timeout: float
    ) -> None:
        from kserve.model_repository import ModelRepository
        from kserve.protocol.dataplane import DataPlane

        manifest = Manifest(
            model=MODEL, version=3, created_as_of=NOW, feature_service=SERVICE, transforms_hash=TRANSFORMS.hash,
            columns=list(TRANSFORMS.columns), code_hash="c", lock_hash="d", snapshot_id="e",
            training=TrainingSpan(start=NOW, end=NOW, rows=1), metrics={},
        )  # fmt: skip
        self.revision = Revision(contract, manifest, TRANSFORMS, booster, RequestSchema(contract))
        self.spool = spool.Spool(
            folder,
            row_schema(contract, dict.fromkeys(TRANSFORMS.defaults, float), list(TRANSFORMS.views)),
            constants={"model": MODEL, "version": 3, "service": SERVICE},
            interval=3600,
        )
        self.folder = folder
        folder.mkdir(parents=True)
        self.metrics = Metrics(CollectorRegistry())
        self.source = source(store, timeout)
        predictor = Predictor(self.revision, self.source, self.spool, FixedClock(), self.metrics)
        repository = ModelRepository()
        repository.update(predictor)
        self.application = Application(predictor, DataPlane(repository), self.spool, self.metrics)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.application.asgi)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def predict(self, *rows: object, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        document = {"instances": list(rows), **more}
        return self.ask("POST", f"/v1/models/{MODEL}:predict", json=document, headers=headers)

    def logged(self) -> list[dict[str, Any]]:
        self.spool.flush()
        found = [spool.read_file(file).to_pylist() for file in sorted(self.folder.glob("*.arrow"))]
        return [entry for table in found for entry in table]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def serve(tmp_path: Path, booster: lightgbm.Booster) -> Callable[..., Served]:
    numbers = iter(range(100))

    def make(store: Store | None = None, timeout: float = 5.0, **changes: Any) -> Served:
        contract = load_contract(MODEL)
        if changes:
            contract = contract.model_copy(update={"features": contract.features.model_copy(update=changes)})
        return Served(tmp_path / str(next(numbers)), booster, store or Store(), contract, timeout)

    return make


# What is answered


def test_v1_and_v2_give_the_same_answers_under_the_same_ids(serve: Callable[..., Served]) -> None:
    served = serve()
    rows, ids = [row(), row(distance=250)], ["flight-0001", "flight-0002"]
    one = served.predict(*rows, prediction_ids=ids)
    two = served.ask(
        "POST", f"/v2/models/{MODEL}/infer", json=tensors(rows, id="q", parameters={"prediction_ids": ids})
    )
    three = served.ask(
        "POST", f"/v2/models/{MODEL}/infer", json=tensors(rows, parameters={"prediction_ids": ",".join(ids)})
    )
    assert (one.status_code, two.status_code, three.status_code) == (200, 200, 200)
    outputs = {output["name"]: output for output in two.json()["outputs"]}
    assert one.json() == {"predictions": outputs["prediction"]["data"], "prediction_ids": ids}
    assert outputs["prediction_id"]["data"] == ids
    assert (two.json()["id"], two.json()["model_version"]) == ("q", "3")
    assert one.headers["x-model-version"] == "3"
    assert one.headers["x-feature-defaults"] == "0"
    assert one.headers["x-prediction-id"] == "flight-0001,flight-0002"


def test_the_answer_is_what_the_transforms_and_the_booster_say(serve: Callable[..., Served]) -> None:
    served = serve()
    joined = pd.DataFrame([row() | dict.fromkeys(TRANSFORMS.defaults, 5.0)])
    expected = served.revision.booster.predict(TRANSFORMS.matrix(joined))
    assert served.predict(row()).json()["predictions"] == expected.tolist()


def test_ids_come_from_the_body_or_the_header_or_are_made(serve: Callable[..., Served]) -> None:
    served = serve()
    header = {"x-prediction-id": "client-0001"}
    assert served.predict(row(), headers=header).json()["prediction_ids"] == ["client-0001"]
    several = served.predict(row(), row(), headers=header)
    assert several.json()["prediction_ids"] == ["client-0001-0", "client-0001-1"]
    assert several.headers["x-prediction-id"] == "client-0001"
    body = served.predict(row(), headers=header, prediction_ids=["flight-0001"])
    assert body.json()["prediction_ids"] == ["flight-0001"]
    made = {served.predict(row()).json()["prediction_ids"][0] for _ in range(3)}
    assert len(made) == 3
    assert served.predict(row(), headers={"x-prediction-id": "a b"}).status_code == 422


def test_the_gateways_own_id_of_a_request_names_a_prediction_that_nobody_named(serve: Callable[..., Served]) -> None:
    served = serve()
    asked = {"x-request-id": "5f1c2c54-0d55-9a3e-8f0a-2f1f7b1f0c11"}
    assert served.predict(row(), headers=asked).json()["prediction_ids"] == list(asked.values())
    named = served.predict(row(), headers={**asked, "x-prediction-id": "client-0001"})
    assert named.json()["prediction_ids"] == ["client-0001"]
    # Not a mistake of the client's.
    assert served.predict(row(), headers={"x-request-id": "?"}).status_code == 200


def test_a_request_that_another_version_answers_is_a_copy(serve: Callable[..., Served]) -> None:
    served = serve()
    for version in ("3", "4"):
        served.predict(row(), headers={"x-slipway-answered-by": version})
    assert [logged["delivered"] for logged in served.logged()] == [True, False]
    counted = served.metrics.answers
    assert counted.labels("200", "true")._value.get() == counted.labels("200", "false")._value.get() == 1


def test_every_answer_is_logged_with_what_it_was_made_of(serve: Callable[..., Served]) -> None:
    served = serve()
    answer = served.predict(row(), prediction_ids=["flight-0001"])
    served.predict(row(), prediction_ids=["flight-0001"], headers={"x-slipway-mirrored": "1"})
    first, mirrored = served.logged()
    assert (first["id"], first["version"], first["model"], first["service"]) == ("flight-0001", 3, MODEL, SERVICE)
    assert first["prediction"] == answer.json()["predictions"][0]
    assert (first["event_time"], first["subject_time"]) == (NOW, NOW + timedelta(hours=1))
    assert (first["in_carrier"], first["in_flight"], first["in_distance"]) == ("UA", 100, 187.0)
    assert first["in_scheduled_departure"] == NOW + timedelta(hours=1)
    assert (first["ft_weather__temp"], first["age_weather"], first["defaults"]) == (5.0, 60.0, 0)
    assert 0 < first["latency_ms"] < 10_000
    assert (first["delivered"], mirrored["delivered"]) == (True, False)
    assert [first["sequence"], mirrored["sequence"]] == [0, 1]


def test_a_log_that_takes_nothing_fails_no_prediction(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()

    def fail(*_: object) -> bool:
        raise RuntimeError("broken")

    monkeypatch.setattr(served.spool, "append", fail)
    assert served.predict(row()).status_code == 200


# Features


def test_a_broken_store_gives_defaults_that_are_counted(serve: Callable[..., Served]) -> None:
    def fail() -> None:
        raise OSError("database is locked")

    served = serve(Store(fail))
    answer = served.predict(row(), row())
    joined = pd.DataFrame([row()])
    assert answer.json()["predictions"] == served.revision.booster.predict(TRANSFORMS.matrix(joined)).tolist() * 2
    assert answer.headers["x-feature-defaults"] == str(2 * VIEWS)
    assert served.count("slipway_feature_defaults_total", view="weather", reason="error") == 2
    entry = served.logged()[0]
    assert (entry["defaults"], entry["ft_weather__temp"], entry["age_weather"]) == (VIEWS, None, None)


def test_a_slow_store_holds_up_nothing_and_is_not_asked_while_it_hangs(serve: Callable[..., Served]) -> None:
    release = threading.Event()
    store = Store(lambda: release.wait(10) and None)
    served = serve(store, timeout=0.5)
    began = time.monotonic()
    for _ in range(5):
        assert served.predict(row()).headers["x-feature-defaults"] == str(VIEWS)
    assert time.monotonic() - began < 1.2  # one time limit, not one for each
    assert store.reads == 1
    release.set()


def test_after_failures_in_a_row_the_store_is_left_alone_and_then_tried_again(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PAUSE", 0.2)
    broken = True

    def maybe_fail() -> None:
        if broken:
            raise OSError("gone")

    store = Store(maybe_fail)
    served = serve(store)
    for _ in range(10):
        served.predict(row())
    assert store.reads == features.FAILURES
    assert served.count("slipway_feature_defaults_total", view="weather", reason="skipped") == 10 - features.FAILURES
    broken = False
    time.sleep(0.25)
    assert served.predict(row()).headers["x-feature-defaults"] == "0"


def test_a_store_that_cannot_be_opened_is_tried_again(booster: lightgbm.Booster) -> None:
    attempts = []

    def open_store() -> Store:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("no such file")
        return Store()

    opened = FeatureSource(open_store, TRANSFORMS.views, ["origin"], timeout=5)
    assert not opened.open(5)
    joined = asyncio.run(opened.read({"origin": ["JFK"]}, 1, NOW))
    assert (joined.reason, joined.defaults.tolist()) == ("", [0])


def test_missing_features_are_rejected_when_the_contract_says_so(serve: Callable[..., Served]) -> None:
    def fail() -> None:
        raise OSError("gone")

    served = serve(Store(fail), on_missing="reject")
    answer = served.predict(row())
    assert answer.status_code == 503
    assert "features are missing" in answer.json()["error"]
    assert served.logged() == []


# What is refused


def refused(answer: httpx.Response, status: int = 422) -> list[str]:
    assert answer.status_code == status, answer.text
    return [problem["where"] for problem in answer.json()["problems"]]


def test_every_mistake_of_a_request_is_told_at_once_in_the_words_of_the_command_line(
    serve: Callable[..., Served],
) -> None:
    served = serve()
    wrong = row(flight="x", distance=9999, scheduled_departure="2013-03-01T13:00:00", origin="")
    del wrong["carrier"]
    document = {"instances": [row(), wrong | {"distanse": 1}], "ids": []}
    answer = served.ask("POST", f"/v1/models/{MODEL}:predict", json=document)
    assert refused(answer) == [
        "ids", "instances.1.carrier", "instances.1.distanse", "instances.1.flight", "instances.1.origin",
        "instances.1.scheduled_departure", "instances.1.distance",
    ]  # fmt: skip
    with pytest.raises(InvalidInput) as raised:
        served.revision.schema.read(document)
    assert answer.json()["error"] == str(raised.value)
    assert "instances.1.distance: 9999 is outside 10 to 6000\n  hint: between 10 and 6000" in str(raised.value)
    assert "instances.1.distanse: unknown field\n  hint: did you mean `distance`?" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"flight": True}, "flight"),
        ({"flight": 10**30}, "flight"),
        ({"flight": 1.5}, "flight"),
        ({"distance": "187"}, "distance"),
        ({"distance": None}, "distance"),
        ({"distance": [187]}, "distance"),
        ({"carrier": "U\x00A"}, "carrier"),
        ({"carrier": "U" * 300}, "carrier"),
        ({"carrier": {"$ne": 1}}, "carrier"),
        ({"scheduled_departure": 1362142800}, "scheduled_departure"),
        ({"scheduled_departure": "2013-02-30T13:00:00Z"}, "scheduled_departure"),
        ({"scheduled_departure": "9999-03-01T13:00:00Z"}, "scheduled_departure"),
        ({"scheduled_departure": "٢٠١٣-03-01T13:00:00Z"}, "scheduled_departure"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_key(
    serve: Callable[..., Served], changes: dict[str, Any], where: str
) -> None:
    assert refused(serve().predict(row(), row(**changes))) == [f"instances.1.{where}"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"instances": [NaN]}', 400),
        (b"\xff\xfe", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'{"instances": []}', 422),
        (b'{"instances": {}}', 422),
        (b'{"instances": [1, null, [], "x"]}', 422),
        (b"[" * 100_000, 400),
        (b" " * (MAX_BODY + 1), 413),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_body_that_is_no_request_is_refused(serve: Callable[..., Served], body: bytes, status: int) -> None:
    served = serve()
    answer = served.ask("POST", f"/v1/models/{MODEL}:predict", content=body)
    assert answer.status_code == status
    assert answer.json()["problems"]
    assert served.ask("POST", f"/v2/models/{MODEL}/infer", content=body).status_code in (status, 422)
    assert served.predict(row()).status_code == 200


def test_too_many_rows_are_refused(serve: Callable[..., Served]) -> None:
    assert refused(serve().predict(*[row()] * (MAX_ROWS + 1))) == ["instances"]
    assert refused(serve().ask("POST", f"/v2/models/{MODEL}/infer", json=tensors([row()] * (MAX_ROWS + 1)))) == [
        "inputs"
    ]


def test_a_thousand_mistakes_are_counted_and_not_all_spelled_out(serve: Callable[..., Served]) -> None:
    where = refused(serve().predict(*[row(flight="x", distance=0)] * 500))
    assert len(where) == 51
    assert where[-1] == "request"


@pytest.mark.parametrize(
    ("ids", "where"),
    [
        (["flight-0001"], "prediction_ids"),
        (["flight-0001", "flight-0001"], "prediction_ids"),
        (["flight-0001", "x"], "prediction_ids.1"),
        (["flight-0001", "../../etc/passwd"], "prediction_ids.1"),
        ("flight-0001", "prediction_ids"),
    ],
)
def test_prediction_ids_that_cannot_name_rows_are_refused(
    serve: Callable[..., Served], ids: object, where: str
) -> None:
    assert refused(serve().predict(row(), row(), prediction_ids=ids)) == [where]


def test_tensors_that_do_not_follow_the_contract_are_refused(serve: Callable[..., Served]) -> None:
    document = tensors([row(), row()], parameters=[], binary=True)
    by_name = {tensor["name"]: tensor for tensor in document["inputs"]}
    by_name["carrier"]["datatype"] = "FP32"
    by_name["flight"]["data"] = [1, "x"]
    by_name["dest"]["shape"] = [3]
    by_name["distance"]["name"] = "distanse"
    del by_name["origin"]["data"]
    where = refused(serve().ask("POST", f"/v2/models/{MODEL}/infer", json=document))
    assert where == [
        "binary", "inputs.distance", "inputs.distanse", "inputs.carrier.datatype", "inputs.flight.data.1",
        "inputs.origin.data", "inputs.dest.shape",
    ]  # fmt: skip


def test_a_field_that_may_be_missing_is_taken_as_missing() -> None:
    contract = load_contract(MODEL)
    request = [
        field.model_copy(update={"missing": "allow"}) if field.name != "carrier" else field
        for field in contract.request
    ]
    schema = RequestSchema(contract.model_copy(update={"request": request}))
    for found in (
        schema.read({"instances": [{"carrier": "UA"}, row()]}),
        schema.read_v2(tensors([row(**dict.fromkeys(set(row()) - {"carrier"})), row()])),
    ):
        assert found.columns["origin"] == [None, "JFK"]
        for name in ("flight", "distance", "scheduled_minutes"):
            assert np.isnan(found.columns[name][0]) and found.columns[name][1] == row()[name]
        assert np.isnat(found.columns["scheduled_departure"][0])


# Routes


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v2/repository/models/{MODEL}/unload"),
        ("POST", f"/v2/repository/models/{MODEL}/load"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("POST", f"/v1/models/{MODEL}:explain"),
        ("POST", "/v1/models/other:predict"),
        ("POST", "/v2/models/other/infer"),
        ("GET", "/v2/models/other/ready"),
        ("POST", "/openai/v1/completions"),
    ],
)
def test_nothing_but_this_models_routes_is_served(serve: Callable[..., Served], method: str, path: str) -> None:
    served = serve()
    assert served.ask(method, path, json={}).status_code == 404
    assert served.predict(row()).status_code == 200


def test_a_draining_server_answers_lets_clients_go_and_is_not_ready(serve: Callable[..., Served]) -> None:
    served = serve()
    assert served.ask("GET", f"/v2/models/{MODEL}/ready").status_code == 200
    served.application.draining = True
    assert served.ask("GET", f"/v2/models/{MODEL}/ready").status_code == 503
    assert served.ask("GET", "/v2/health/ready").status_code == 503
    answer = served.predict(row())
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_metrics_show_answers_rows_stages_and_the_log(serve: Callable[..., Served]) -> None:
    served = serve()
    served.metrics.watch(served.spool)
    served.predict(row(), row())
    served.predict()
    text = served.ask("GET", "/metrics").text
    assert 'slipway_answers_total{delivered="true",status="200"} 1.0' in text
    assert 'slipway_answers_total{delivered="true",status="422"} 1.0' in text
    assert "slipway_rows_total 2.0" in text
    assert "slipway_log_waiting 2.0" in text
    assert 'slipway_stage_seconds_count{stage="predict"} 1.0' in text
    flushed = served.ask("POST", "/flush")
    assert json.loads(flushed.text) == {"written": 2, "dropped": 0}


def test_alerts_and_dashboards_ask_for_metrics_and_labels_that_are_shown(serve: Callable[..., Served]) -> None:
    def fail() -> None:
        raise OSError("gone")

    served = serve(Store(fail))
    served.metrics.watch(served.spool)
    served.predict(row())
    text = served.ask("GET", "/metrics").text
    shown = set(re.findall(r"^(slipway_\w+)", text, re.M))
    labels = set(re.findall(r'[{,](\w+)="', text)) | {"pod", "namespace"}
    asked = "".join(
        file.read_text()
        for folder in ("alerts", "dashboards")
        for file in (REPOSITORY / "monitoring" / folder).iterdir()
    )
    assert set(re.findall(r"slipway_\w+", asked)) <= shown
    ours = [line for line in asked.splitlines() if "slipway_" in line]
    grouped = {name for line in ours for group in re.findall(r"by \(([\w, ]+)\)", line) for name in group.split(", ")}
    assert grouped
    assert grouped <= labels
