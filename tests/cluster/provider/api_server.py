"""What the provider asks of the API server: discovery, read, server-side apply, delete; every wait has a limit."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kubernetes import client, config
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential

Object = dict[str, Any]

SERVED_WITHIN = 20.0
"""Seconds in which a kind must appear after its definition."""
ESTABLISHED_WITHIN = 60.0
_MAKE_PODS = ("CronJob", "DaemonSet", "Deployment", "Job", "StatefulSet")
DELETED_WITHIN = 120.0
"""Seconds for finalizers and what belongs to the object, unless the resource says otherwise."""


class Kind(NamedTuple):
    path: str
    """`/api/v1` or `/apis/<group>/<version>`."""
    plural: str
    namespaced: bool


class NotServed(Exception):
    """The API server knows no such kind."""


class ApiError(Exception):
    """What the API server refused, in its own words."""

    def __init__(self, status: int, message: str, reason: str = "", causes: list[Object] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.causes = causes or []


def _is_passing(error: BaseException) -> bool:
    """The API server was too busy to answer; everything that is asked here may be asked twice."""
    return isinstance(error, ApiError) and error.status in (429, 503, 504)


class ApiServer:
    """A client under one field manager."""

    def __init__(self, kubeconfig: str, context: str, field_manager: str) -> None:
        self._client = _open_client(kubeconfig, context)
        self._field_manager = field_manager
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._lock = threading.Lock()

    def find_kind(self, api_version: str, kind: str, within: float = 0.0) -> Kind:
        """Look the kind up, and again until `within` seconds have passed. Raises NotServed."""
        deadline = time.monotonic() + within
        while True:
            with self._lock:
                if (api_version, kind) not in self._kinds:
                    self._discover(api_version)
                if (api_version, kind) in self._kinds:
                    return self._kinds[api_version, kind]
            if time.monotonic() >= deadline:
                raise NotServed(f"the API server has no kind {kind} in {api_version}: its definition is not there")
            time.sleep(0.2)

    def read(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        """The live object; None when it, its namespace or its kind is not there."""
        try:
            path = self._path(self.find_kind(api_version, kind), namespace, name)
            return self._call("GET", path)
        except NotServed:
            return None
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def apply(self, wanted: Object, *, force: bool, dry_run: bool, within: float = SERVED_WITHIN) -> Object:
        """Server-side apply. Raises ApiError (409: the fields that another manager owns) and NotServed."""
        kind = self.find_kind(wanted["apiVersion"], wanted["kind"], within)
        metadata = wanted["metadata"]
        query = [("fieldManager", self._field_manager), ("force", str(force).lower()), ("fieldValidation", "Strict")]
        if dry_run:
            query.append(("dryRun", "All"))
        path = self._path(kind, metadata.get("namespace", ""), metadata["name"])
        return self._call("PATCH", path, query, wanted, "application/apply-patch+yaml")

    def delete(self, api_version: str, kind: str, namespace: str, name: str, within: float = DELETED_WITHIN) -> None:
        """Delete and wait until it is gone. Raises ApiError when it is not in time."""
        try:
            path = self._path(self.find_kind(api_version, kind), namespace, name)
            # Foreground waits for the garbage collector, which stands still while definitions come and go.
            policy = "Foreground" if kind in _MAKE_PODS else "Background"
            self._call("DELETE", path, [("propagationPolicy", policy)])
        except NotServed:
            return
        except ApiError as error:
            if error.status == 404:
                return
            raise
        deadline = time.monotonic() + (within or DELETED_WITHIN)
        while self.read(api_version, kind, namespace, name):
            if time.monotonic() >= deadline:
                # The published provider's words: it does not say by what the object is held.
                raise ApiError(504, "timed out waiting for the condition")
            time.sleep(0.1)

    def await_ready(self, live: Object) -> Object:
        """Definitions are waited for, since their objects come next; nothing else is."""
        if live["kind"] != "CustomResourceDefinition":
            return live
        deadline = time.monotonic() + ESTABLISHED_WITHIN
        while True:
            conditions = {item["type"]: item for item in (live.get("status") or {}).get("conditions") or []}
            if conditions.get("Established", {}).get("status") == "True":
                return live
            refused = conditions.get("NamesAccepted", {})
            if refused.get("status") == "False":
                raise ApiError(409, f"{live['metadata']['name']}: {refused.get('message')}")
            if time.monotonic() >= deadline:
                raise ApiError(504, f"{live['metadata']['name']} is not Established after {ESTABLISHED_WITHIN:.0f} s")
            time.sleep(0.1)
            live = self.read(live["apiVersion"], live["kind"], "", live["metadata"]["name"]) or live

    def _discover(self, api_version: str) -> None:
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            resources = self._call("GET", path)["resources"]
        except ApiError as error:
            if error.status != 404:
                raise
            return
        for resource in resources:
            if "/" not in resource["name"]:
                found = Kind(path, resource["name"], resource["namespaced"])
                self._kinds[api_version, resource["kind"]] = found

    @staticmethod
    def _path(kind: Kind, namespace: str, name: str) -> str:
        place = f"/namespaces/{namespace or 'default'}" if kind.namespaced else ""
        return f"{kind.path}{place}/{kind.plural}/{name}"

    @retry(retry=retry_if_exception(_is_passing), stop=stop_after_attempt(4), wait=wait_exponential(), reraise=True)
    def _call(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Object | None = None,
        content_type: str = "",
    ) -> Object:
        try:
            response = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Accept": "application/json"} | ({"Content-Type": content_type} if content_type else {}),
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=60,
            )[0]
        except client.ApiException as error:
            raise _api_error(error) from error
        found: Object = json.loads(response.data)
        return found


def _api_error(error: client.ApiException) -> ApiError:
    try:
        status = json.loads(error.body)
    except (TypeError, ValueError):
        return ApiError(error.status or 0, str(error.reason))
    causes = (status.get("details") or {}).get("causes") or []
    return ApiError(error.status, status.get("message", str(error.reason)), status.get("reason", ""), causes)


def _open_client(kubeconfig: str, context: str) -> client.ApiClient:
    if kubeconfig.lstrip().startswith("{") or "\n" in kubeconfig:
        return config.new_client_from_config_dict(yaml.safe_load(kubeconfig), context=context or None)
    file = str(Path(kubeconfig).expanduser()) if kubeconfig else None
    return config.new_client_from_config(file, context=context or None)
