"""The cluster that an `existing` environment means, and whether we may and can work there. Reads only.

What costs a minute to find out (quotas, images, memory) is `slipway doctor`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from slipway.errors import InvalidInput, Problem
from slipway.kubernetes_settings import SUPPORTED_VERSIONS, KubernetesSettings

_WITHIN = 10
"""Seconds for each question to the API server."""

# What standing up needs first and a namespace's administrator lacks: (group, resource).
_RIGHTS = (
    ("", "namespaces"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
)


@dataclass(frozen=True)
class Context:
    """One entry of a kubeconfig."""

    name: str
    file: str
    server: str

    def __str__(self) -> str:
        return f"context {self.name} of {self.file} ({self.server})"


def read_context(settings: KubernetesSettings) -> Context:
    """Which cluster the settings mean. Raises InvalidInput: no such file, not a kubeconfig, no such context."""
    file = str(settings.kubeconfig or os.environ.get("KUBECONFIG") or config.KUBE_CONFIG_DEFAULT_LOCATION)
    paths = [Path(path).expanduser() for path in file.split(os.pathsep)]
    if not any(path.is_file() for path in paths):
        raise InvalidInput(Problem("kubernetes.kubeconfig", f"{file} is not there", "the path of a kubeconfig"))
    try:
        contexts, current = config.list_kube_config_contexts(file)
    except config.ConfigException as error:
        raise InvalidInput(
            Problem("kubernetes.kubeconfig", f"{file}: {error}", "a kubeconfig with contexts")
        ) from error
    known = {item["name"]: item for item in contexts}
    name = settings.context or current["name"]
    if name not in known:
        choices = ", ".join(sorted(known))
        raise InvalidInput(Problem("kubernetes.context", f"{name} is not in {file}", f"one of: {choices}"))
    api = config.new_client_from_config(file, context=name)
    return Context(name, file, api.configuration.host)


def check_access(context: Context) -> None:
    """Ask the cluster. Raises InvalidInput with all that is wrong: unreachable, wrong version, missing rights."""
    api = config.new_client_from_config(context.file, context=context.name)
    api.configuration.retries = False
    try:
        version = client.VersionApi(api).get_code(_request_timeout=_WITHIN)
        problems = [*_version_problems(version, context), *_missing_rights(api, context)]
    except client.ApiException as error:
        raise InvalidInput(_refused(context, error)) from error
    except (HTTPError, OSError) as error:
        reason = str(error).rpartition(": ")[2]
        message = f"{context.server} does not answer: {reason}"
        hint = "is the cluster up, and reachable from here?"
        raise InvalidInput(Problem("kubernetes.kubeconfig", message, hint)) from error
    if problems:
        raise InvalidInput(problems)


def _version_problems(version: Any, context: Context) -> Iterator[Problem]:
    found = f"{version.major}.{version.minor.rstrip('+')}"
    if found not in SUPPORTED_VERSIONS:
        supported = ", ".join(SUPPORTED_VERSIONS)
        old = _ordered(found) < _ordered(SUPPORTED_VERSIONS[0])
        what = "too old" if old else "newer than what the pinned operators were made for"
        yield Problem("kubernetes.context", f"{context.name} runs Kubernetes {found}: {what}", f"one of: {supported}")


def _missing_rights(api: client.ApiClient, context: Context) -> Iterator[Problem]:
    reviews = client.AuthorizationV1Api(api)
    for group, resource in _RIGHTS:
        review = {"spec": {"resourceAttributes": {"verb": "create", "group": group, "resource": resource}}}
        answer = reviews.create_self_subject_access_review(review, _request_timeout=_WITHIN)
        if not answer.status.allowed:
            name = f"{resource}.{group}" if group else resource
            yield Problem(
                "kubernetes.context",
                f"{context.name} may not create {name}",
                "a context of a cluster administrator: definitions and roles belong to the whole cluster",
            )


def _refused(context: Context, error: client.ApiException) -> Problem:
    return Problem("kubernetes.context", f"{context.name} was refused: {error.status} {error.reason}", "log in again")


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
