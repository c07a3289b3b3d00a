"""The registry: MLflow's tracking and model registry over its REST API, with the token of role `internal`, or a login.

MLflow's own client is not used: its import costs 3 s and 200 MB in every process that only wants a bundle, and
`mlflow.pyfunc` would run code from it. The REST API (version 2.0) and its artifact proxy are MLflow's public interface.

Nothing here decides what is released: the ledger does, and aliases mirror it for people.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from slipway import bundle
from slipway.endpoints import registry_url
from slipway.environment import Environment
from slipway.errors import Conflict, NotReady, SlipwayError, Unknown
from slipway.pod import LOGIN
from slipway.tokens import read_token

RUN_KEY, DIGEST, STATE = "slipway.run_key", "slipway.digest", "slipway.state"
INCOMPLETE = "incomplete"
_FOLDER = "bundle"
_SCHEME = "mlflow-artifacts:/"
_TRIES = 4
_AWAY = (502, 503, 504)
"""What the gateway answers while MLflow is not there."""
_BATCH = 100
"""Parameters in one request; MLflow takes no more."""


@dataclass(frozen=True)
class Version:
    """A registered model version; `state` is incomplete, candidate or refused, as of its registration."""

    model: str
    version: int
    state: str
    digest: str
    run_id: str
    source: str


class Registry:
    """One environment's MLflow server. Every call has a time-out; an unreachable server raises NotReady."""

    def __init__(self, environment: Environment, *, transport: httpx.BaseTransport | None = None) -> None:
        """`transport` stands in for the network in tests."""
        self._environment = environment
        self._transport = transport

    def register(self, model: str, run_key: str, build: Callable[[int], Path]) -> int:
        """Register the bundle that `build` makes for its number; the same key gives the same version again.

        A version exists from its creation on, and is `incomplete` until all its files are there: whoever calls again
        with the same key, after a crash or a lost response, completes that one instead of making another.
        """
        with self._client() as client:
            self._ensure_model(client, model)
            found = self._find(client, model, run_key)
            if found is None:
                run_id = self._ensure_run(client, model, run_key)
                source = f"{self._run(client, run_id)['info']['artifact_uri'].rstrip('/')}/{_FOLDER}"
                tags = [{"key": RUN_KEY, "value": run_key}, {"key": STATE, "value": INCOMPLETE}]
                body = {"name": model, "source": source, "run_id": run_id, "tags": tags}
                self._call(client, "POST", "model-versions/create", body=body, again=False)
                found = self._find(client, model, run_key)
            if found is None:
                raise Conflict(f"registry: {model} has no version of run {run_key} though it was made")
            if found.state == INCOMPLETE:
                folder = build(found.version)
                manifest = bundle.Manifest.model_validate_json((folder / bundle.MANIFEST).read_bytes())
                for file in sorted(folder.iterdir()):
                    self._upload(client, f"{_path_of(found.source)}/{file.name}", file)
                self._tag(client, found, DIGEST, manifest.content_digest)
                gate_says = bundle.read_gate(folder).get("verdict")
                self._tag(client, found, STATE, "candidate" if gate_says == "passed" else "refused")
            return found.version

    def list_versions(self, model: str) -> list[Version]:
        """All versions of a model, oldest first; none for a model that was never registered."""
        with self._client() as client:
            return self._search(client, f"name='{model}'")

    def download(self, model: str, version: int, folder: Path) -> None:
        """Write the files of a version into `folder`, which exists. Raises Unknown. Verifies nothing."""
        with self._client() as client:
            known = self._search(client, f"name='{model}'")
            chosen = next((one for one in known if one.version == version and one.state != INCOMPLETE), None)
            if chosen is None:
                raise Unknown(f"version of {model}", version, [one.version for one in known])
            base = _path_of(chosen.source)
            listing = self._call(client, "GET", "artifacts", proxy=True, query={"path": base})
            for entry in listing.get("files", []):
                name = str(entry["path"])
                if PurePosixPath(name).name != name or name in (".", ".."):
                    raise SlipwayError(f"registry: {model} {version} holds {name!r}, which is no plain file name")
                self._fetch(client, f"{base}/{name}", folder / name)

    def mirror_release(self, model: str, champion: int | None, previous: int | None, challenger: int | None) -> None:
        """Set the aliases that people see; an alias of nothing is removed."""
        aliases = {"champion": champion, "previous": previous, "challenger": challenger}
        with self._client() as client:
            for alias, version in aliases.items():
                body = {"name": model, "alias": alias}
                if version is None:
                    self._call(client, "DELETE", "registered-models/alias", body=body, missing_is_fine=True)
                else:
                    self._call(client, "POST", "registered-models/alias", body={**body, "version": str(version)})

    def log_run(
        self,
        model: str,
        run_key: str,
        *,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, object],
        finished: bool | None = None,
    ) -> str:
        """Write what a training run was given and what it found to its MLflow run; returns the run's id.

        `finished` True or False closes the run as done or failed; None leaves it open. Parameters are written once:
        the same ones again are accepted, others are refused by MLflow.
        """
        with self._client() as client:
            run_id = self._ensure_run(client, model, run_key)
            pairs = [{"key": key, "value": str(value)[:6000]} for key, value in params.items()]
            now = int(time.time() * 1000)
            body: dict[str, Any] = {
                "run_id": run_id,
                "metrics": [{"key": k, "value": float(v), "timestamp": now, "step": 0} for k, v in metrics.items()],
                "tags": [{"key": key, "value": str(value)[:5000]} for key, value in tags.items()],
            }
            for start in range(0, max(len(pairs), 1), _BATCH):
                self._call(client, "POST", "runs/log-batch", body={**body, "params": pairs[start : start + _BATCH]})
                body = {"run_id": run_id}
            if finished is not None:
                status = "FINISHED" if finished else "FAILED"
                self._call(client, "POST", "runs/update", body={"run_id": run_id, "status": status, "end_time": now})
            return run_id

    # --- MLflow's objects -----------------------------------------------------------------------------------------

    def _ensure_model(self, client: httpx.Client, model: str) -> None:
        self._call(client, "POST", "registered-models/create", body={"name": model}, existing_is_fine=True)

    def _ensure_run(self, client: httpx.Client, model: str, run_key: str) -> str:
        """The MLflow run of this key, in the experiment of the model's name; made when there is none."""
        self._call(client, "POST", "experiments/create", body={"name": model}, existing_is_fine=True)
        found = self._call(client, "GET", "experiments/get-by-name", query={"experiment_name": model})
        experiment = found["experiment"]["experiment_id"]
        query = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{RUN_KEY}` = '{run_key}'",
            "order_by": ["attributes.start_time ASC"],
            "max_results": 1,
        }
        runs = self._call(client, "POST", "runs/search", body=query).get("runs", [])
        if not runs:
            body = {
                "experiment_id": experiment,
                "run_name": run_key,
                "start_time": int(time.time() * 1000),
                "tags": [{"key": RUN_KEY, "value": run_key}],
            }
            return str(self._call(client, "POST", "runs/create", body=body, again=False)["run"]["info"]["run_id"])
        return str(runs[0]["info"]["run_id"])

    def _run(self, client: httpx.Client, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self._call(client, "GET", "runs/get", query={"run_id": run_id})["run"]
        return run

    def _find(self, client: httpx.Client, model: str, run_key: str) -> Version | None:
        """The oldest version of a key, should a race ever have made two."""
        return next(iter(self._search(client, f"name='{model}' and tag.`{RUN_KEY}`='{run_key}'")), None)

    def _search(self, client: httpx.Client, condition: str) -> list[Version]:
        versions, page = [], ""
        while True:
            query = {"filter": condition, "max_results": 200, **({"page_token": page} if page else {})}
            answer = self._call(client, "GET", "model-versions/search", query=query)
            versions += [_version_of(row) for row in answer.get("model_versions", [])]
            page = answer.get("next_page_token", "")
            if not page:
                return sorted(versions, key=lambda one: one.version)

    def _tag(self, client: httpx.Client, version: Version, key: str, value: str) -> None:
        body = {"name": version.model, "version": str(version.version), "key": key, "value": value}
        self._call(client, "POST", "model-versions/set-tag", body=body)

    # --- HTTP -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        headers = {"Authorization": authorization_of(self._environment)}
        timeout = httpx.Timeout(30, connect=5)
        pod = self._environment.pod
        # trust_env: a proxy or .netrc of the user's must never see the token.
        with httpx.Client(
            base_url=registry_url(self._environment),
            headers=headers,
            timeout=timeout,
            verify=pod.trust() if pod else True,
            transport=self._transport,
            trust_env=False,
        ) as client:
            yield client

    def _call(
        self,
        client: httpx.Client,
        method: str,
        name: str,
        *,
        body: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
        proxy: bool = False,
        again: bool = True,
        existing_is_fine: bool = False,
        missing_is_fine: bool = False,
    ) -> dict[str, Any]:
        """One request of the REST API, `again` when its loss can be mended by repeating it."""
        address = f"/api/2.0/{'mlflow-artifacts' if proxy else 'mlflow'}/{name}"
        response = _send(lambda: client.request(method, address, json=body, params=query), _TRIES if again else 1)
        if response.is_success:
            answer: dict[str, Any] = response.json() if response.content else {}
            return answer
        code, message = _error_of(response)
        if (existing_is_fine and code == "RESOURCE_ALREADY_EXISTS") or (
            missing_is_fine and code == "RESOURCE_DOES_NOT_EXIST"
        ):
            return {}
        raise SlipwayError(f"registry: {method} {name} answered {response.status_code}: {message}")

    def _upload(self, client: httpx.Client, path: str, file: Path) -> None:
        address = f"/api/2.0/mlflow-artifacts/artifacts/{quote(path)}"
        response = _send(lambda: client.put(address, content=file.read_bytes()), _TRIES)
        if not response.is_success:
            message = _error_of(response)[1]
            raise SlipwayError(f"registry: {file.name} was not taken: {response.status_code}: {message}")

    def _fetch(self, client: httpx.Client, path: str, file: Path) -> None:
        try:
            with client.stream("GET", f"/api/2.0/mlflow-artifacts/artifacts/{quote(path)}") as response:
                if response.status_code in _AWAY:
                    raise NotReady(f"registry: the gateway answers {response.status_code}", hint="slipway status")
                if not response.is_success:
                    raise SlipwayError(f"registry: {file.name} was not given: {response.status_code}")
                with file.open("wb") as stream:
                    for chunk in response.iter_bytes():
                        stream.write(chunk)
        except httpx.HTTPError as error:
            message = f"registry: {file.name} was cut off: {error or type(error).__name__}"
            raise NotReady(message, hint="slipway status") from error


def authorization_of(environment: Environment) -> str:
    """The token that the gateway asks for; in a cluster, where MLflow itself asks, its login."""
    if environment.pod is None:
        return f"Bearer {read_token(environment, 'internal')}"
    login = ":".join(environment.pod.read(f"{LOGIN}/{name}") for name in ("username", "password"))
    return f"Basic {b64encode(login.encode()).decode()}"


def _send(request: Callable[[], httpx.Response], tries: int) -> httpx.Response:
    """Send, again after a growing pause while the server or the gateway before it is away. Raises NotReady."""
    for attempt in range(1, tries + 1):
        try:
            response = request()
        except httpx.HTTPError as error:
            if attempt == tries:
                reason = str(error) or type(error).__name__
                raise NotReady(f"registry: no answer: {reason}", hint="slipway status") from error
        else:
            if response.status_code not in _AWAY:
                return response
            if attempt == tries:
                raise NotReady(f"registry: the gateway answers {response.status_code}", hint="slipway status")
        time.sleep(0.2 * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _error_of(response: httpx.Response) -> tuple[str, str]:
    """MLflow's error code and text; plain text where something else answered."""
    try:
        document = response.json()
        return str(document.get("error_code", "")), str(document.get("message", ""))
    except ValueError:
        return "", response.text[:200]


def _version_of(row: Mapping[str, Any]) -> Version:
    tags = {tag["key"]: tag["value"] for tag in row.get("tags", [])}
    return Version(
        model=row["name"],
        version=int(row["version"]),
        state=tags.get(STATE, INCOMPLETE),
        digest=tags.get(DIGEST, ""),
        run_id=row.get("run_id", ""),
        source=row["source"],
    )


def _path_of(source: str) -> str:
    """`mlflow-artifacts:/1/abc/artifacts/bundle` as a path of the artifact proxy."""
    if not source.startswith(_SCHEME):
        raise SlipwayError(f"registry: {source}: not behind the artifact proxy", hint="start MLflow with its proxy on")
    return source.removeprefix(_SCHEME).lstrip("/")
