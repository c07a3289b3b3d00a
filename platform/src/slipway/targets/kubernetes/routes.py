"""One model's traffic as an HTTPRoute: weights over the Services of its revisions, and back again.

Like the local target, a request is also copied to the version that does not answer it. The Gateway API cannot choose
the copy's receiver by who answers, so while both versions answer, both get a copy, and the log keeps one row for each
prediction and version. Who answers is written on the request before it is copied (`ANSWERED_BY`): the version named
there delivers, any other one scores a copy.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from slipway.errors import InvalidInput, Problem
from slipway.targets import Traffic
from slipway.targets.kubernetes import names

API, PLURAL = "gateway.networking.k8s.io/v1", "httproutes"

Object = dict[str, Any]

ANSWERED_BY = "x-slipway-answered-by"
"""Version that delivers the answer; clients cannot set it, the route replaces it."""
ROLES = "slipway.dev/traffic"
"""Annotation: who is champion, challenger and previous. Weights say nothing of a version that gets none."""
REQUEST_TIMEOUT, ATTEMPT_TIMEOUT = "12s", "5s"
_ALL = 100


def check(model: str, traffic: Traffic) -> None:
    """Raises InvalidInput for traffic that makes no sense."""
    problems = []
    if not 0 <= traffic.percent <= _ALL:
        problems.append(Problem("traffic.percent", f"{traffic.percent} is not between 0 and 100"))
    if traffic.challenger is None and traffic.percent:
        problems.append(Problem("traffic.percent", f"{traffic.percent} % of {model} would have no challenger to go to"))
    if traffic.challenger == traffic.champion:
        problems.append(Problem("traffic.challenger", f"version {traffic.champion} is the champion already"))
    if problems:
        raise InvalidInput(problems)


def describe(model: str, traffic: Traffic, *, domain: str, environment: str) -> Object:
    """The object to apply."""
    weights = {traffic.champion: _ALL - traffic.percent}
    if traffic.challenger is not None:
        weights[traffic.challenger] = traffic.percent
    backends = [_answering(model, version, weight) for version, weight in weights.items()]
    copies = [_copying(model, version) for version in _copied_to(traffic)]
    return {
        "apiVersion": API,
        "kind": "HTTPRoute",
        "metadata": {
            "name": names.route_name(model),
            "namespace": names.NAMESPACE,
            "labels": {
                names.MODEL_LABEL: model,
                "app.kubernetes.io/name": "route",
                "app.kubernetes.io/part-of": "slipway",
                "app.kubernetes.io/managed-by": "slipway",
                "slipway.dev/environment": environment,
            },
            "annotations": {ROLES: json.dumps(asdict(traffic), sort_keys=True)},
        },
        "spec": {
            "parentRefs": [
                {"name": names.GATEWAY, "namespace": names.GATEWAY_NAMESPACE, "sectionName": names.LISTENER}
            ],
            "hostnames": [f"{names.DOOR}.{domain}"],
            "rules": [
                {
                    "name": "predict",
                    "matches": [
                        _match("POST", f"/v1/models/{model}:predict"),
                        _match("POST", f"/v2/models/{model}/infer"),
                    ],
                    "filters": copies,
                    "backendRefs": backends,
                    "timeouts": {"request": REQUEST_TIMEOUT, "backendRequest": ATTEMPT_TIMEOUT},
                },
                {
                    "name": "facts",
                    "matches": [
                        _match("GET", path)
                        for path in (f"/v1/models/{model}", f"/v2/models/{model}", f"/v2/models/{model}/ready")
                    ],
                    "backendRefs": [_backend(model, traffic.champion) | {"weight": 1}],
                    "timeouts": {"request": REQUEST_TIMEOUT},
                },
            ],
        },
    }


def read(live: Object) -> Traffic | None:
    """What the route says; None for one that is not ours. Shares are those of its weights, whoever set them."""
    text = (live["metadata"].get("annotations") or {}).get(ROLES)
    if text is None:
        return None
    roles = Traffic(**json.loads(text))
    weights = [int(backend.get("weight", 1)) for backend in live["spec"]["rules"][0]["backendRefs"]]
    if roles.challenger is None or len(weights) < 2 or not sum(weights):
        return Traffic(roles.champion, roles.challenger, 0, roles.previous)
    return Traffic(roles.champion, roles.challenger, round(_ALL * weights[1] / sum(weights)), roles.previous)


def refusals(live: Object) -> list[str] | None:
    """What the gateway has against the route as it is now: nothing when empty, None while it has not said."""
    parents = (live.get("status") or {}).get("parents") or []
    found = [condition for parent in parents for condition in parent.get("conditions") or []]
    current = {
        condition["type"]: condition
        for condition in found
        if condition.get("observedGeneration") == live["metadata"]["generation"]
    }
    if not {"Accepted", "ResolvedRefs"} <= set(current):
        return None
    return [
        f"{kind}: {condition.get('message') or condition.get('reason')}"
        for kind, condition in sorted(current.items())
        if condition["status"] != "True" and kind in ("Accepted", "ResolvedRefs")
    ]


def _copied_to(traffic: Traffic) -> list[int]:
    """Versions that get a copy: each that does not answer everything, as long as there are two."""
    if traffic.challenger is None:
        return []
    copies = [traffic.challenger] if traffic.percent < _ALL else []
    return copies + ([traffic.champion] if traffic.percent else [])


def _answering(model: str, version: int, weight: int) -> Object:
    mark = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [_header(ANSWERED_BY, version)]}}
    return _backend(model, version) | {"weight": weight, "filters": [mark]}


def _copying(model: str, version: int) -> Object:
    return {"type": "RequestMirror", "requestMirror": {"backendRef": _backend(model, version)}}


def _backend(model: str, version: int) -> Object:
    return {"name": names.service_name(model, version), "port": names.SERVICE_PORT}


def _header(name: str, value: object) -> Object:
    return {"name": name, "value": str(value)}


def _match(method: str, path: str) -> Object:
    return {"method": method, "path": {"type": "Exact", "value": path}}
