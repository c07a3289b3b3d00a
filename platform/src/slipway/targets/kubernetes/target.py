"""The Kubernetes target: a revision is an InferenceService, traffic is an HTTPRoute.

It makes both and nothing else: namespace, runtime, account, gateway and network policies are the infrastructure's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.errors import InvalidSettings, NotReady, Problem
from slipway.targets import Answers, Traffic
from slipway.targets.kubernetes import answers, inference_service, names, routes
from slipway.targets.kubernetes.cluster_api import ClusterApi, Object

T = TypeVar("T")

ROUTE_WITHIN = 30.0
"""Seconds for the gateway to say what it makes of a route."""
REMOVED_WITHIN = inference_service.GRACE + 30.0
_PAUSE = 0.25


class KubernetesTarget:
    """Implements `slipway.targets.Target`; safe to call from several processes, the API server arbitrates."""

    def __init__(self, environment: Environment, *, ask: answers.Ask = answers.ask_pod) -> None:
        """`ask` stands in for the cluster's network in tests."""
        settings = environment.settings.kubernetes
        if settings is None:
            problem = Problem("target", "kubernetes needs the table [kubernetes]", 'provider = "existing"')
            raise InvalidSettings(problem)
        self._environment = environment.settings.name
        self._domain = settings.domain
        self._ready_within = environment.settings.processes.start_timeout.total_seconds()
        self._api = ClusterApi(settings)
        self._ask = ask

    def apply_revision(self, model: str, version: int) -> None:
        contract = load_contract(model)
        wanted = inference_service.describe(contract, version, self._environment, self._read_runtime())
        self._api.apply(wanted, inference_service.PLURAL)

        def ready() -> bool:
            live = self._read_revision(model, version)
            return live is not None and inference_service.is_ready(live)

        if not _wait(ready, self._ready_within):
            raise NotReady(
                f"{model} version {version} is not ready after {self._ready_within:.0f} s: "
                f"{inference_service.explain(self._read_revision(model, version))}",
                hint=f"kubectl -n {names.NAMESPACE} describe pods -l {self._selector(model, version)}",
            )

    def remove_revision(self, model: str, version: int) -> None:
        name = names.revision_name(model, version)
        self._api.delete(inference_service.API, names.NAMESPACE, inference_service.PLURAL, name)
        if not _wait(lambda: self._is_gone(model, version), REMOVED_WITHIN):
            raise NotReady(
                f"{model} version {version} is still there after {REMOVED_WITHIN:.0f} s",
                hint=f"kubectl -n {names.NAMESPACE} get inferenceservices,pods -l {self._selector(model, version)}",
            )

    def list_revisions(self, model: str) -> dict[int, bool]:
        found = self._api.find(
            inference_service.API, names.NAMESPACE, inference_service.PLURAL, {names.MODEL_LABEL: model}
        )
        # One that is being deleted should not run any more.
        return {
            inference_service.version_of(live): inference_service.is_ready(live)
            for live in found
            if not live["metadata"].get("deletionTimestamp")
        }

    def set_traffic(self, model: str, traffic: Traffic) -> None:
        routes.check(model, traffic)
        count = routes.next_count(self._read_route(model), traffic)
        wanted = routes.describe(model, traffic, domain=self._domain, environment=self._environment, count=count)
        self._api.apply(wanted, routes.PLURAL)
        answer = _wait(lambda: _answer_of(self._read_route(model)), ROUTE_WITHIN)
        if answer is None:
            raise NotReady(
                f"the gateway has not taken the route of {model} after {ROUTE_WITHIN:.0f} s",
                hint=f"kubectl -n {names.GATEWAY_NAMESPACE} get gateways,pods",
            )
        refused = answer[0]
        if refused:
            raise NotReady(f"the gateway does not take the route of {model}: {'; '.join(refused)}")

    def read_traffic(self, model: str) -> Traffic | None:
        live = self._read_route(model)
        return routes.read(live) if live else None

    def count_answers(self, model: str) -> dict[int, Answers]:
        route = self._read_route(model)
        if route is None:
            raise NotReady(f"{model} is not routed, so nobody counts its answers", hint=f"slipway train {model}")
        envoys = self._api.find("v1", names.GATEWAY_NAMESPACE, "pods", answers.OWNED)
        return answers.count_answers(route, envoys, self._ask)

    def _read_runtime(self) -> Object:
        runtime = self._api.read(
            inference_service.RUNTIME_API, names.NAMESPACE, inference_service.RUNTIME_PLURAL, names.RUNTIME
        )
        if runtime is None:
            raise NotReady(f"there is no ServingRuntime {names.NAMESPACE}/{names.RUNTIME}", hint="slipway up")
        return runtime

    def _read_revision(self, model: str, version: int) -> Object | None:
        name = names.revision_name(model, version)
        return self._api.read(inference_service.API, names.NAMESPACE, inference_service.PLURAL, name)

    def _read_route(self, model: str) -> Object | None:
        return self._api.read(routes.API, names.NAMESPACE, routes.PLURAL, names.route_name(model))

    def _is_gone(self, model: str, version: int) -> bool:
        """The object and, since they may still answer, its pods."""
        labels = {names.MODEL_LABEL: model, names.VERSION_LABEL: str(version)}
        return self._read_revision(model, version) is None and not self._api.find("v1", names.NAMESPACE, "pods", labels)

    @staticmethod
    def _selector(model: str, version: int) -> str:
        return f"{names.MODEL_LABEL}={model},{names.VERSION_LABEL}={version}"


def _answer_of(route: Object | None) -> tuple[list[str]] | None:
    """Wrapped, since an empty list of refusals is an answer too."""
    refused = routes.refusals(route) if route else None
    return None if refused is None else (refused,)


def _wait(probe: Callable[[], T], within: float) -> T:
    """Ask until the answer is true or time is up; the last answer."""
    deadline = time.monotonic() + within
    while not (answer := probe()) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return answer
