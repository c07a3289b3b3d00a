"""The one table of everything that the gateway lets through: host, path, methods, who may, and where it goes.

Envoy's configuration is generated from this table and the portal's authorization looks requests up in it, so that the
two cannot disagree. What is not in the table does not exist from outside. It says nothing about versions: which of them
answers a model's requests is a matter of traffic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from slipway.tokens import Role

Door = Literal["portal", "mlflow", "reports", "ray", "grafana", "pipelines", "registry"]
"""Which host is addressed: `localhost` is the portal's, each dashboard has a name below it, `registry` is a listener
of its own for programs. Grafana and Kubeflow Pipelines are in clusters only."""
Check = Literal["token", "session", "open"]
"""token: Envoy itself compares the bearer token, no other process is asked. session: the portal is asked, which takes
a browser's cookie or a bearer token and checks Host and Origin. open: anybody, see `OPEN`."""
Upstream = Literal["model", "portal", "mlflow", "reports", "ray", "grafana", "pipelines"]

DASHBOARDS: tuple[Door, ...] = ("mlflow", "reports", "ray", "grafana", "pipelines")
"""Doors of programs that know none of our roles."""

# No counted repetition: Envoy refuses regular expressions that compile to more than a hundred instructions.
_SEGMENTS = {"model": r"[a-z][a-z0-9_]*", "door": "|".join(DASHBOARDS)}

READERS: tuple[Role, ...] = ("read", "operate")
OPERATORS: tuple[Role, ...] = ("operate",)
_LOOK = ("GET", "HEAD")


@dataclass(frozen=True)
class Route:
    """One rule. `path` is literal but for `{model}`, `{door}` (one segment) and a last `*` (any rest)."""

    name: str
    door: Door
    path: str
    methods: tuple[str, ...]
    """Empty: every method."""
    check: Check
    roles: tuple[Role, ...]
    upstream: Upstream
    body_limit: int = 0
    """Largest request body in bytes, held by the gateway until it is whole; 0 streams it to the upstream."""
    mirrored: bool = field(default=False, kw_only=True)
    """While there is a challenger, also sent to the version that does not answer it."""

    @cached_property
    def regex(self) -> str:
        """The path as a regular expression that must match it whole."""
        stem = self.path.removesuffix("*")
        parts = re.split(r"\{(\w+)\}", stem)
        text = "".join(re.escape(part) if i % 2 == 0 else f"({_SEGMENTS[part]})" for i, part in enumerate(parts))
        return f"{text}.*" if self.path.endswith("*") else text

    @property
    def is_literal(self) -> bool:
        return "{" not in self.path and not self.path.endswith("*")

    def takes(self, method: str) -> bool:
        return not self.methods or method in self.methods


_MODEL_FACTS: tuple[Role, ...] = ("predict", "read", "operate")
_MEBIBYTE = 1 << 20

# What pages ask for by POST although they only read.
_MLFLOW_SEARCHES = (
    "/ajax-api/2.0/mlflow/experiments/search",
    "/ajax-api/2.0/mlflow/runs/search",
    "/ajax-api/2.0/mlflow/logged-models/search",
    "/ajax-api/2.0/mlflow/registered-models/get-latest-versions",
    "/ajax-api/2.0/mlflow/experiments/search-datasets",
    "/ajax-api/3.0/mlflow/datasets/search",
    "/ajax-api/3.0/mlflow/traces/search",
    "/ajax-api/3.0/mlflow/traces/batchGetInfos",
    "/ajax-api/3.0/mlflow/traces/calculate-filter-correlation",
    "/graphql",
)
_READING_POSTS: dict[Door, tuple[str, ...]] = {
    "mlflow": _MLFLOW_SEARCHES,
    # Grafana's own role of whoever comes through this door is Viewer: what else lies below is refused there.
    "grafana": ("/api/ds/query", "/api/datasources/uid/*"),
    "pipelines": ("/ml_metadata.MetadataStoreService/Get*",),
}


def _dashboard(door: Door) -> Iterable[Route]:
    """A dashboard's host: the exchange of a login code, reading for readers, all the rest for operators."""
    upstream: Upstream = door  # type: ignore[assignment] # the dashboards are upstreams of the same name
    yield Route(f"{door}-login", door, "/.slipway/login", ("GET",), "open", (), "portal")
    yield Route(f"{door}-static", door, "/.slipway/static/*", _LOOK, "open", (), "portal")
    for path in _READING_POSTS.get(door, ()):
        yield Route(f"{door}-{path.strip('/')}", door, path, ("POST",), "session", READERS, upstream)
    yield Route(f"{door}-read", door, "/*", _LOOK, "session", READERS, upstream)
    yield Route(f"{door}-change", door, "/*", (), "session", OPERATORS, upstream)


ROUTES: tuple[Route, ...] = (
    # Predictions. KServe's server has more routes (it lets anybody unload a model); only these are let through.
    Route("predict-v1", "portal", "/v1/models/{model}:predict", ("POST",), "token", ("predict",), "model",
          2 * _MEBIBYTE, mirrored=True),
    Route("predict-v2", "portal", "/v2/models/{model}/infer", ("POST",), "token", ("predict",), "model",
          2 * _MEBIBYTE, mirrored=True),
    Route("model-ready-v2", "portal", "/v2/models/{model}/ready", _LOOK, "token", _MODEL_FACTS, "model"),
    Route("model-facts-v2", "portal", "/v2/models/{model}", _LOOK, "token", _MODEL_FACTS, "model"),
    Route("model-ready-v1", "portal", "/v1/models/{model}", _LOOK, "token", _MODEL_FACTS, "model"),
    # The programs' side of the portal.
    Route("labels", "portal", "/api/labels", ("POST",), "token", ("labels",), "portal", 8 * _MEBIBYTE),
    Route("login-code", "portal", "/api/login", ("POST",), "session", READERS, "portal"),
    Route("status", "portal", "/api/status", _LOOK, "session", READERS, "portal"),
    # Pages.
    Route("home", "portal", "/", _LOOK, "session", READERS, "portal"),
    Route("model-page", "portal", "/models/{model}", _LOOK, "session", READERS, "portal"),
    Route("dashboard", "portal", "/open/{door}", ("GET",), "session", READERS, "portal"),
    Route("logout", "portal", "/logout", ("POST",), "session", READERS, "portal"),
    Route("login", "portal", "/login", ("GET",), "open", (), "portal"),
    Route("static", "portal", "/.slipway/static/*", _LOOK, "open", (), "portal"),
    *(route for door in DASHBOARDS for route in _dashboard(door)),
    # MLflow for the platform's own programs.
    Route("registry", "registry", "/*", (), "token", ("internal",), "mlflow"),
)  # fmt: skip

OPEN = frozenset({"login", "static"} | {f"{door}-{what}" for door in DASHBOARDS for what in ("login", "static")})
"""The routes that need no credentials: each takes a one-time code, or serves a file that is the same for everybody."""

DOORS: tuple[Door, ...] = ("portal", "mlflow", "reports", "ray")
"""Those of the local gateway's own listener, all of them for browsers too."""


def routes_of(door: Door) -> list[Route]:
    """The door's rules, in the order in which they are tried."""
    return [route for route in ROUTES if route.door == door]


def find_route(door: Door, method: str, path: str) -> Route | None:
    """The first rule for this request; None when the path is unknown or does not take the method."""
    for route in routes_of(door):
        if route.takes(method) and re.fullmatch(route.regex, path):
            return route
    return None


def methods_of(door: Door, path: str) -> list[str]:
    """The methods that some rule takes for this path; empty when the path is unknown."""
    return sorted({method for r in routes_of(door) if re.fullmatch(r.regex, path) for method in r.methods})
