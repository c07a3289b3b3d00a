"""Questions to an API server, as the kubeconfig's user. Reads, and asks what it may do; changes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.kubernetes_settings import KubernetesSettings

WITHIN = 10
"""Seconds for one answer."""


class Unreachable(SlipwayError):
    """The API server does not answer, or not to us."""


class ExaminedCluster:
    """One cluster."""

    def __init__(self, client: client.ApiClient, context: str) -> None:
        self._client = client
        self.context = context
        self.server = str(client.configuration.host)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at `path`; empty where there is none. Raises Unreachable."""
        return self._call("GET", path, None)

    def may(self, verb: str, group: str, resource: str, namespace: str = "") -> bool:
        """Whether this user has the right, by SelfSubjectAccessReview. Raises Unreachable."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool(answer.get("status", {}).get("allowed"))

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._client.call_api(
                path,
                method,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                response_type="object",
                _return_http_data_only=True,
                _request_timeout=WITHIN,
            )
        except client.ApiException as error:
            if error.status == 404:
                return {}
            hint = "log in again: the kubeconfig's credentials are not taken" if error.status == 401 else ""
            raise Unreachable(f"{self.server}{path}: {error.status} {error.reason}", hint=hint) from error
        except (HTTPError, OSError) as error:
            reason = str(error).rpartition(": ")[2].rstrip(")'\"") or type(error).__name__
            raise Unreachable(
                f"{self.server} does not answer: {reason}", hint="is the cluster up, and reachable from here?"
            ) from error
        return answer or {}


def open_cluster(settings: KubernetesSettings, made: Path) -> ExaminedCluster:
    """The cluster that the settings mean; `made` is the kubeconfig of a cluster of ours.

    Connects to nothing. Raises InvalidInput: no such file, not a kubeconfig, no such context.
    """
    ours = settings.provider != "existing"
    file = str(made if ours else settings.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    paths = [Path(path).expanduser() for path in file.split(os.pathsep)]
    if not any(path.is_file() for path in paths):
        remedy = "make up: it makes the cluster" if ours else "set kubernetes.kubeconfig, or KUBECONFIG"
        raise InvalidInput(Problem("kubernetes.kubeconfig", f"{file} is not there", remedy))
    files = os.pathsep.join(map(str, paths))
    try:
        contexts, current = config.list_kube_config_contexts(files)
        known = {str(item["name"]) for item in contexts}
        name = settings.context or str(current["name"])
        if name not in known:
            remedy = f"one of: {', '.join(sorted(known))}"
            raise InvalidInput(Problem("kubernetes.context", f"{name} is not in {file}", remedy))
        api = config.new_client_from_config(files, context=name)
    except (config.ConfigException, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "a kubeconfig that `kubectl config view` can read"
        raise InvalidInput(Problem("kubernetes.kubeconfig", f"{file}: {error}", remedy)) from error
    api.configuration.retries = False
    return ExaminedCluster(api, name)
