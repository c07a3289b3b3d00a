"""One model's traffic as an HTTPRoute: weights over the Services of its revisions, and back again.

Like the local target, a request is also copied to the version that does not answer it. The Gateway API cannot choose
the copy's receiver by who answers, so while both versions answer, both get a copy, and the log keeps one row for each
prediction and version. Who answers is written on the request before it is copied (`ANSWERED_BY`): the version named
there delivers, any other one scores a copy.

Envoy counts by rule and backend, and calls both by their place. So the rule of predictions changes its place among the
others whenever champion or challenger change: what it counts there was answered by these two and nobody else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
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
SINCE = "slipway.dev/counting-since"
"""Annotation: when champion or challenger last changed, RFC 3339."""
PREDICT = "predict"
"""Name of the rule of predictions."""
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


@dataclass(frozen=True)
class Backend:
    """Who stands at one place of the rule of predictions."""

    version: int
    weight: int


@dataclass(frozen=True)
class Count:
    """Where Envoy's counters of the predictions are, and since when they are these versions' alone."""

    place: int
    since: datetime


def next_count(live: Object | None, traffic: Traffic) -> Count:
    """The one in force while champion and challenger stay; otherwise a fresh one, that begins now."""
    held = read_count(live) if live else None
    if live is None or held is None:
        return Count(0, datetime.now(UTC))
    roles = read(live)
    if roles is not None and (roles.champion, roles.challenger) == (traffic.champion, traffic.challenger):
        return held
    # All places in turn: Envoy keeps the old counters until the last request of then has ended.
    return Count((held.place + 1) % len(live["spec"]["rules"]), datetime.now(UTC))


def read_count(live: Object) -> Count | None:
    """None for a route that is not ours."""
    since = (live["metadata"].get("annotations") or {}).get(SINCE)
    places = [place for place, rule in enumerate(live["spec"]["rules"]) if rule.get("name") == PREDICT]
    return Count(places[0], datetime.fromisoformat(since)) if since and places else None


def describe(model: str, traffic: Traffic, *, domain: str, environment: str, count: Count) -> Object:
    """The object to apply."""
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
            "annotations": {
                ROLES: json.dumps(asdict(traffic), sort_keys=True),
                SINCE: count.since.isoformat(timespec="milliseconds"),
            },
        },
        "spec": {
            "parentRefs": [
                {"name": names.GATEWAY, "namespace": names.GATEWAY_NAMESPACE, "sectionName": names.LISTENER}
            ],
            "hostnames": [f"{names.DOOR}.{domain}"],
            "rules": _rules(model, traffic, count.place),
        },
    }


def _rules(model: str, traffic: Traffic, place: int) -> list[Object]:
    """The rules of the model's facts, with that of predictions among them. Their paths differ: no order matters."""
    weights = {traffic.champion: _ALL - traffic.percent}
    if traffic.challenger is not None:
        weights[traffic.challenger] = traffic.percent
    rules: list[Object] = [
        {
            "name": name,
            "matches": [_match("GET", path)],
            "backendRefs": [_backend(model, traffic.champion) | {"weight": 1}],
            "timeouts": {"request": REQUEST_TIMEOUT},
        }
        for name, path in (
            ("state", f"/v1/models/{model}"),
            ("facts", f"/v2/models/{model}"),
            ("ready", f"/v2/models/{model}/ready"),
        )
    ]
    predictions = {
        "name": PREDICT,
        "matches": [_match("POST", f"/v1/models/{model}:predict"), _match("POST", f"/v2/models/{model}/infer")],
        "filters": [_copying(model, version) for version in _copied_to(traffic)],
        "backendRefs": [_answering(model, version, weight) for version, weight in weights.items()],
        "timeouts": {"request": REQUEST_TIMEOUT, "backendRequest": ATTEMPT_TIMEOUT},
    }
    return [*rules[:place], predictions, *rules[place:]]


def read(live: Object) -> Traffic | None:
    """What the route says; None for one that is not ours. Shares are those of its weights, whoever set them."""
    text = (live["metadata"].get("annotations") or {}).get(ROLES)
    if text is None:
        return None
    roles = Traffic(**json.loads(text))
    weights = [backend.weight for backend in read_backends(live)]
    if roles.challenger is None or len(weights) < 2 or not sum(weights):
        return Traffic(roles.champion, roles.challenger, 0, roles.previous)
    return Traffic(roles.champion, roles.challenger, round(_ALL * weights[1] / sum(weights)), roles.previous)


def read_backends(live: Object) -> list[Backend]:
    """Champion, and challenger if there is one, in the order in which they stand in the rule of predictions."""
    rules: list[Object] = live["spec"]["rules"]
    found: list[Object] = next((rule["backendRefs"] for rule in rules if rule.get("name") == PREDICT), [])
    return [Backend(_answered_by(backend), int(backend.get("weight", 1))) for backend in found]


def _answered_by(backend: Object) -> int:
    headers = [header for each in backend["filters"] for header in each["requestHeaderModifier"]["set"]]
    return next(int(header["value"]) for header in headers if header["name"] == ANSWERED_BY)


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
