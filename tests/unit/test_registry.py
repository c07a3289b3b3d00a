"""The registry against a small MLflow of the same wire format: one run key, one version, whatever answer is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from slipway import tokens
from slipway.bundle import verify_bundle
from slipway.environment import Environment
from slipway.errors import NotReady, SlipwayError, Unknown
from slipway.registry import Registry
from slipway.signing import public_key_of
from tests.unit.test_bundle import open_environment, write


class SmallMlflow:
    """MLflow's REST API in memory, as far as the client uses it; `lose` names calls whose answer is lost once."""

    def __init__(self) -> None:
        self.models: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}
        self.versions: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.aliases: dict[str, str] = {}
        self.lose: set[str] = set()
        self.tokens: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.tokens.add(request.headers["Authorization"])
        proxy = "/api/2.0/mlflow-artifacts/artifacts"
        if request.url.path.startswith(proxy):
            return self._artifact(request, unquote(request.url.path.removeprefix(proxy)).lstrip("/"))
        name = request.url.path.removeprefix("/api/2.0/mlflow/")
        body = json.loads(request.content) if request.content else dict(request.url.params)
        call: Callable[..., dict[str, Any] | None] = getattr(self, name.replace("/", "_").replace("-", "_"))
        answer = call(body, request.method)
        if name in self.lose:
            self.lose.remove(name)
            raise httpx.ReadTimeout("the answer was lost", request=request)
        if answer is None:
            return httpx.Response(400, json={"error_code": "RESOURCE_ALREADY_EXISTS", "message": "exists"})
        return httpx.Response(200, json=answer)

    def _artifact(self, request: httpx.Request, path: str) -> httpx.Response:
        if request.method == "PUT":
            self.files[path] = request.content
            return httpx.Response(200, json={})
        if path:
            return httpx.Response(200, content=self.files[path])
        base = request.url.params["path"]
        names = [name.removeprefix(f"{base}/") for name in self.files if name.startswith(f"{base}/")]
        return httpx.Response(200, json={"files": [{"path": name, "is_dir": False} for name in names]})

    def registered_models_create(self, body: dict[str, Any], _: str) -> dict[str, Any] | None:
        known = body["name"] in self.models
        self.models.add(body["name"])
        return None if known else {}

    def registered_models_alias(self, body: dict[str, Any], method: str) -> dict[str, Any]:
        if method == "DELETE":
            self.aliases.pop(body["alias"], None)
        else:
            self.aliases[body["alias"]] = body["version"]
        return {}

    def experiments_create(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        return {}

    def experiments_get_by_name(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        return {"experiment": {"experiment_id": "1"}}

    def runs_search(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        key = body["filter"].split("'")[1]
        return {"runs": [run for run in self.runs.values() if run["key"] == key]}

    def runs_create(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        number = f"run{len(self.runs) + 1}"
        info = {"run_id": number, "artifact_uri": f"mlflow-artifacts:/1/{number}/artifacts"}
        self.runs[number] = {"info": info, "key": body["tags"][0]["value"], "params": {}, "metrics": {}, "tags": {}}
        return {"run": self.runs[number]}

    def runs_get(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        return {"run": self.runs[body["run_id"]]}

    def runs_log_batch(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        run = self.runs[body["run_id"]]
        for kind in ("params", "metrics", "tags"):
            run[kind] |= {pair["key"]: pair["value"] for pair in body.get(kind, [])}
        return {}

    def runs_update(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        self.runs[body["run_id"]]["status"] = body["status"]
        return {}

    def model_versions_create(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        self.versions.append({**body, "version": str(len(self.versions) + 1)})
        return {"model_version": self.versions[-1]}

    def model_versions_search(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        parts = body["filter"].split("'")
        rows = [row for row in self.versions if row["name"] == parts[1]]
        if len(parts) > 3:
            rows = [row for row in rows if {"key": "slipway.run_key", "value": parts[3]} in row["tags"]]
        return {"model_versions": rows}

    def model_versions_set_tag(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        row = self.versions[int(body["version"]) - 1]
        row["tags"] = [tag for tag in row["tags"] if tag["key"] != body["key"]]
        row["tags"].append({"key": body["key"], "value": body["value"]})
        return {}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    environment = open_environment(tmp_path)
    tokens.prepare(environment)
    (environment.state.run / "ports.json").write_text(json.dumps({"registry": 20_000}))
    return environment


@pytest.fixture
def server() -> SmallMlflow:
    return SmallMlflow()


@pytest.fixture
def registry(environment: Environment, server: SmallMlflow) -> Registry:
    return Registry(environment, transport=httpx.MockTransport(server))


class Builder:
    """Builds a bundle for the number it is given, and counts."""

    def __init__(self, environment: Environment, root: Path, *, fail_first: bool = False) -> None:
        self.environment, self.root, self.fail_first = environment, root, fail_first
        self.built: list[int] = []

    def __call__(self, version: int) -> Path:
        self.built.append(version)
        folder = write(self.environment, self.root / f"bundle-{len(self.built)}", version)
        if self.fail_first and len(self.built) == 1:
            raise KeyboardInterrupt
        return folder


def test_a_version_carries_digest_and_state_and_its_files(
    environment: Environment, registry: Registry, tmp_path: Path
) -> None:
    builder = Builder(environment, tmp_path)
    assert registry.register("parcels", "run-1", builder) == 1
    (version,) = registry.list_versions("parcels")
    assert (version.version, version.state, len(version.digest)) == (1, "candidate", 64)
    copy = tmp_path / "copy"
    copy.mkdir()
    registry.download("parcels", 1, copy)
    assert verify_bundle(copy, model="parcels", version=1, public_key=public_key_of(environment)).version == 1


def test_the_same_run_key_is_the_same_version(environment: Environment, registry: Registry, tmp_path: Path) -> None:
    builder = Builder(environment, tmp_path)
    numbers = [registry.register("parcels", key, builder) for key in ("run-1", "run-1", "run-2", "run-1")]
    assert numbers == [1, 1, 2, 1]
    assert builder.built == [1, 2]


def test_an_answer_lost_after_the_commit_gives_the_same_version_at_the_next_try(
    environment: Environment, registry: Registry, server: SmallMlflow, tmp_path: Path
) -> None:
    server.lose = {"model-versions/create"}
    builder = Builder(environment, tmp_path)
    with pytest.raises(NotReady, match="the answer was lost"):
        registry.register("parcels", "run-1", builder)
    assert registry.register("parcels", "run-1", builder) == 1
    assert len(server.versions) == 1


def test_a_version_whose_upload_was_cut_is_completed_and_never_given_out_before(
    environment: Environment, registry: Registry, server: SmallMlflow, tmp_path: Path
) -> None:
    builder = Builder(environment, tmp_path, fail_first=True)
    with pytest.raises(KeyboardInterrupt):
        registry.register("parcels", "run-1", builder)
    assert registry.list_versions("parcels")[0].state == "incomplete"
    with pytest.raises(Unknown):
        registry.download("parcels", 1, tmp_path)
    assert registry.register("parcels", "run-1", builder) == 1
    assert registry.list_versions("parcels")[0].state == "candidate"


def test_a_lost_answer_to_what_can_be_repeated_is_asked_again(registry: Registry, server: SmallMlflow) -> None:
    server.lose = {"model-versions/search"}
    assert registry.list_versions("parcels") == []


def test_an_unknown_version_is_named_with_those_that_exist(
    environment: Environment, registry: Registry, tmp_path: Path
) -> None:
    registry.register("parcels", "run-1", Builder(environment, tmp_path))
    with pytest.raises(Unknown, match="7 does not exist\n  hint: one of: 1"):
        registry.download("parcels", 7, tmp_path)


def test_a_file_name_that_leads_elsewhere_is_refused(
    environment: Environment, registry: Registry, server: SmallMlflow, tmp_path: Path
) -> None:
    registry.register("parcels", "run-1", Builder(environment, tmp_path))
    server.files["1/run1/artifacts/bundle/../../outside"] = b"x"
    folder = tmp_path / "deep" / "copy"
    folder.mkdir(parents=True)
    with pytest.raises(SlipwayError, match="no plain file name"):
        registry.download("parcels", 1, folder)
    assert not (tmp_path / "outside").exists()


def test_a_run_keeps_what_it_was_given_and_what_it_found(registry: Registry, server: SmallMlflow) -> None:
    params = {f"p{i}": i for i in range(150)}
    for _ in range(2):
        registry.log_run("parcels", "run-1", params=params, metrics={"auc": 0.7}, tags={"t": 1}, finished=True)
    (run,) = server.runs.values()
    assert len(run["params"]) == 150
    assert run["metrics"] == {"auc": 0.7}
    assert run["status"] == "FINISHED"


def test_aliases_follow_the_release_and_vanish_with_it(registry: Registry, server: SmallMlflow) -> None:
    registry.mirror_release("parcels", champion=3, previous=2, challenger=4)
    assert server.aliases == {"champion": "3", "previous": "2", "challenger": "4"}
    registry.mirror_release("parcels", champion=4, previous=3, challenger=None)
    assert server.aliases == {"champion": "4", "previous": "3"}


def test_every_request_carries_the_internal_token(
    environment: Environment, registry: Registry, server: SmallMlflow
) -> None:
    registry.list_versions("parcels")
    assert server.tokens == {f"Bearer {tokens.read_token(environment, 'internal')}"}


def test_a_registry_that_is_away_is_not_ready(environment: Environment) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(NotReady, match="connection refused"):
        Registry(environment, transport=httpx.MockTransport(refuse)).list_versions("parcels")


def test_a_refusal_of_the_registry_is_told_in_its_words(environment: Environment) -> None:
    def deny(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, text="wrong role")

    with pytest.raises(SlipwayError, match="403: wrong role"):
        Registry(environment, transport=httpx.MockTransport(deny)).list_versions("parcels")
