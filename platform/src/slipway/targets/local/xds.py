"""Envoy's configuration as plain documents, generated from the route table, the tokens and the traffic of each model.

It writes no file and talks to no process. Field names are those of Envoy's v3 API; every deviation from Envoy's
defaults says which fact forces it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.targets import Traffic
from slipway.targets.local.routes import DOORS, Check, Door, Route, routes_of
from slipway.tokens import Role

Document = dict[str, Any]

MIRRORED_HEADER = "x-slipway-mirrored"
"""Stands on the copies of requests that a version scores without delivering; clients cannot send it."""
PREDICTION_HEADER = "x-prediction-id"
"""The client's id of a prediction, or one made here, before the request is mirrored: both versions see the same."""

_TYPE = "type.googleapis.com/envoy."
_KEY_FILTER = "envoy.filters.http.api_key_auth"
_AUTHORIZATION_FILTER = "envoy.filters.http.ext_authz"
_BUFFER_FILTER = "envoy.filters.http.buffer"
_DASHBOARD_TIMEOUT = "300s"
_PREDICTION_TIMEOUT = "12s"
_ATTEMPT_TIMEOUT = "5s"


@dataclass(frozen=True)
class Gateway:
    """What the generated documents depend on."""

    hosts: Mapping[Door, tuple[str, ...]]
    """Names without port, for every door of the gateway's listener."""
    tokens: Mapping[Role, str]
    traffic: Mapping[str, Traffic]
    """Model -> who answers."""
    sockets: Mapping[str, Path]
    """Upstream or `<model>-<version>` -> unix socket."""
    ray_port: int


def discovery(resources: Iterable[Document]) -> Document:
    """A discovery response whose version is the digest of its content.

    The same content in another order is the same version: Envoy keeps the version it has where nothing changed.
    """
    listed = sorted(resources, key=lambda resource: str(resource["name"]))
    digest = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": digest, "resources": listed}


# --- clusters ---------------------------------------------------------------------------------------------------------

# Envoy's defaults allow three retries at a time, so that a dead version under load would cost answers.
_LIMITS = {"max_connections": 1024, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 4096}


def _cluster(name: str, address: Document) -> Document:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    return {
        "@type": f"{_TYPE}config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [_LIMITS]},
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
    }


def _pipe(path: Path) -> Document:
    return {"pipe": {"path": str(path)}}


def first_cluster(model: str, version: int) -> str:
    """The cluster that asks this version first, and another one only where this one fails."""
    return f"{model}-{version}-first"


def _aggregate(model: str, version: int, others: Iterable[int]) -> Document:
    return {
        "@type": f"{_TYPE}config.cluster.v3.Cluster",
        "name": first_cluster(model, version),
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": {"thresholds": [_LIMITS]},
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": f"{_TYPE}extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": [f"{model}-{number}" for number in (version, *others)],
            },
        },
    }


def versions_of(traffic: Traffic) -> list[int]:
    """Champion, challenger, previous: those that there are, each once."""
    numbers = (traffic.champion, traffic.challenger, traffic.previous)
    return list(dict.fromkeys(number for number in numbers if number is not None))


def model_clusters(model: str, traffic: Traffic, sockets: Mapping[str, Path]) -> list[Document]:
    """One cluster per version; one that delivers with fallbacks, and one for mirrored copies, so that the counters of
    the first tell attempts to deliver and nothing else."""
    versions = versions_of(traffic)
    clusters = [_cluster(f"{model}-{version}", _pipe(sockets[f"{model}-{version}"])) for version in versions]
    # A dead challenger's share goes to the champion; nobody's share ever goes to a challenger.
    spare = [version for version in versions if version != traffic.challenger]
    for version in versions:
        if version in (traffic.champion, traffic.challenger):
            clusters.append(_aggregate(model, version, [other for other in spare if other != version]))
            if traffic.challenger is not None:
                clusters.append(_cluster(f"{model}-{version}-shadow", _pipe(sockets[f"{model}-{version}"])))
    return clusters


def clusters(gateway: Gateway) -> list[Document]:
    """Every cluster that the routes name."""
    fixed = [_cluster(name, _pipe(gateway.sockets[name])) for name in ("portal", "mlflow", "reports")]
    ray = {"socket_address": {"address": "127.0.0.1", "port_value": gateway.ray_port}}
    fixed.append(_cluster("ray", ray))
    models = [model_clusters(model, traffic, gateway.sockets) for model, traffic in sorted(gateway.traffic.items())]
    return [*fixed, *(cluster for group in models for cluster in group)]


# --- routes -----------------------------------------------------------------------------------------------------------


def _filters(route: Route, tokens: Mapping[Role, str]) -> Document:
    """Both checks are on unless a route switches one off, so that a route without a rule lets nobody in."""
    off = {"@type": f"{_TYPE}config.route.v3.FilterConfig", "disabled": True}
    no_portal = {"@type": f"{_TYPE}extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
    keys = {
        "@type": f"{_TYPE}extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
        "credentials": [{"key": token, "client": role} for role, token in sorted(tokens.items())],
        "allowed_clients": list(route.roles),
        "forwarding": {"hide_credentials": True},
    }
    by_check: dict[Check, Document] = {
        "token": {_KEY_FILTER: keys, _AUTHORIZATION_FILTER: no_portal},
        "session": {_KEY_FILTER: off},
        "open": {_KEY_FILTER: off, _AUTHORIZATION_FILTER: no_portal},
    }
    filters = by_check[route.check]
    if route.body_limit:
        filters[_BUFFER_FILTER] = {
            "@type": f"{_TYPE}extensions.filters.http.buffer.v3.BufferPerRoute",
            "buffer": {"max_request_bytes": route.body_limit},
        }
    return filters


def _match(regex: str, *, literal: bool, methods: Iterable[str] = (), percent: int | None = None) -> Document:
    match: Document = {"path": regex} if literal else {"safe_regex": {"regex": regex}}
    if methods:
        pattern = {"safe_regex": {"regex": "|".join(methods)}}
        match["headers"] = [{"name": ":method", "string_match": pattern}]
    if percent is not None:
        match["runtime_fraction"] = {"default_value": {"numerator": percent, "denominator": "HUNDRED"}}
    return match


def _answer(status: int, message: str) -> Document:
    body = json.dumps({"error": message})
    return {
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"}}],
    }


_RETRY = {
    # A prediction may be asked for again: it changes nothing, and the log knows a row by prediction id and version.
    "retry_on": "5xx",
    "num_retries": 2,
    "per_try_timeout": _ATTEMPT_TIMEOUT,
    "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"},
    "retry_priority": {
        "name": "envoy.retry_priorities.previous_priorities",
        "typed_config": {
            "@type": f"{_TYPE}extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": 1,
        },
    },
}


def _mirror(model: str, version: int) -> Document:
    mark = {"header": {"key": MIRRORED_HEADER, "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "cluster": f"{model}-{version}-shadow",
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [{"append": mark}],
    }


def _to_version(route: Route, model: str, version: int, mirror: int | None) -> Document:
    action: Document = {
        "cluster": first_cluster(model, version),
        "timeout": _PREDICTION_TIMEOUT,
        "retry_policy": _RETRY,
    }
    if route.mirrored and mirror is not None:
        action["request_mirror_policies"] = [_mirror(model, mirror)]
    made = {"header": {"key": PREDICTION_HEADER, "value": "%UNIQUE_ID%"}, "append_action": "ADD_IF_ABSENT"}
    return {
        "route": action,
        "request_headers_to_add": [made] if route.mirrored else [],
        "request_headers_to_remove": ["cookie"],
    }


def _model_routes(route: Route, gateway: Gateway) -> list[Document]:
    """For each model: the challenger's share, then the champion for the rest; last, a 404 for every other name."""
    found: list[Document] = []
    filters = {"typed_per_filter_config": _filters(route, gateway.tokens)}
    for model, traffic in sorted(gateway.traffic.items()):
        path = route.path.replace("{model}", model)
        challenger = traffic.challenger
        if challenger is not None and traffic.percent and route.mirrored:
            match = _match(path, literal=True, methods=route.methods, percent=traffic.percent)
            found.append({"match": match, **_to_version(route, model, challenger, traffic.champion), **filters})
        match = _match(path, literal=True, methods=route.methods)
        found.append({"match": match, **_to_version(route, model, traffic.champion, challenger), **filters})
    served = ", ".join(sorted(gateway.traffic)) or "none yet"
    unknown = _match(route.regex, literal=False, methods=route.methods)
    found.append({"match": unknown, **_answer(404, f"no such model is served; served: {served}"), **filters})
    return found


def _routes(route: Route, gateway: Gateway) -> list[Document]:
    if route.upstream == "model":
        return _model_routes(route, gateway)
    literal = route.path if route.is_literal else route.regex
    action: Document = {"cluster": route.upstream, "timeout": _DASHBOARD_TIMEOUT}
    drop: list[str] = []
    if route.upstream != "portal":
        # Dashboards check hosts and origins by their own lights; the portal has checked both, and the name that each
        # of them trusts is this one. Nobody's cookie or token is theirs to see.
        action["host_rewrite_literal"] = "localhost"
        drop = ["origin", "cookie", "authorization"]
    return [
        {
            "match": _match(literal, literal=route.is_literal, methods=route.methods),
            "route": action,
            "request_headers_to_remove": drop,
            "typed_per_filter_config": _filters(route, gateway.tokens),
        }
    ]


def _wrong_method(route: Route, gateway: Gateway) -> Document:
    """For paths that only Envoy checks; on the others the portal says so."""
    literal = route.path if route.is_literal else route.regex
    return {
        "match": _match(literal, literal=route.is_literal),
        **_answer(405, f"this path takes {', '.join(route.methods)}"),
        "typed_per_filter_config": _filters(route, gateway.tokens),
    }


def _host(door: Door, domains: Iterable[str], gateway: Gateway) -> Document:
    rules = routes_of(door)
    routes = [entry for route in rules for entry in _routes(route, gateway)]
    routes += [_wrong_method(route, gateway) for route in rules if route.check == "token" and route.methods]
    if door != "registry":
        unknown = Route("unknown", door, "/*", (), "session", (), "portal")
        rest = {
            "match": {"prefix": "/"},
            **_answer(404, "no such path"),
            "typed_per_filter_config": _filters(unknown, {}),
        }
        routes.append(rest)
    return {"name": door, "domains": list(domains), "routes": routes}


def gateway_routes(gateway: Gateway) -> Document:
    """The routes of the door for everybody: a virtual host per name; any other name is told so (421), which is what
    a page that has pointed its own name at this address gets."""
    hosts = [_host(door, gateway.hosts[door], gateway) for door in DOORS]
    misdirected = {
        "match": {"prefix": "/"},
        **_answer(421, "this host name is not served here; use localhost, or a name of the certificate"),
        "typed_per_filter_config": _filters(Route("misdirected", "portal", "/*", (), "open", (), "portal"), {}),
    }
    return _route_table("gateway", [*hosts, {"name": "other", "domains": ["*"], "routes": [misdirected]}])


def registry_routes(gateway: Gateway) -> Document:
    """The routes of the door for the platform's own programs."""
    return _route_table("registry", [_host("registry", ("127.0.0.1", "localhost"), gateway)])


def _route_table(name: str, hosts: list[Document]) -> Document:
    return {
        "@type": f"{_TYPE}config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": hosts,
        "ignore_port_in_host_matching": True,
        # A route to a cluster that does not exist would be taken and answer 503: refuse the table instead.
        "validate_clusters": True,
    }
