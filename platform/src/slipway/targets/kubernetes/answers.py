"""What Envoy counted of a model's predictions: attempts to deliver an answer, by version, over all of its pods.

Envoy names its counters by the place of rule and backend in the route; who stands there, the route says, and its rule
of predictions is at another place when champion or challenger change (`routes.next_count`). Copies have counters of
their own. Read from the port that Envoy Gateway opens for Prometheus; nothing is kept here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from slipway.errors import NotReady
from slipway.targets import Answers
from slipway.targets.kubernetes import names, routes

Object = dict[str, Any]
Ask = Callable[[str, str], str]
"""(address of a pod, path with query) -> the text that it answers. Raises NotReady."""

PORT = 19001
OWNED = {"gateway.envoyproxy.io/owning-gateway-name": names.GATEWAY}
"""Labels of the Gateway's Envoys."""
_WITHIN = 5.0
_COUNTERS = "upstream_rq_(total|completed|5xx|retry|time)"


@dataclass
class Counters:
    """Of one version, summed over the Envoys."""

    completed: int = 0
    """Answers, those that Envoy made itself because no attempt came through among them."""
    failed: int = 0
    """Of these, 5xx."""
    retried: int = 0
    """Attempts that failed and were made again."""
    buckets: dict[float, int] = field(default_factory=dict)
    """Upper bound in milliseconds -> answers of an upstream that took no longer."""


def count_answers(route: Object, envoys: Sequence[Object], ask: Ask) -> dict[int, Answers]:
    """Per version that the route's rule of predictions names; `envoys` are the Gateway's pods.

    Raises NotReady when one of them does not say: a missing metric is never a zero.
    """
    count = routes.read_count(route)
    if count is None:
        raise NotReady(f"nothing says since when the answers of {route['metadata']['name']} are counted")
    running = [pod for pod in envoys if _is_ready(pod)]
    if not running:
        raise NotReady("no Envoy of the gateway is ready, so nobody counts answers", hint="slipway doctor")
    rule = f"httproute/{names.NAMESPACE}/{route['metadata']['name']}/rule/{count.place}"
    clusters = {f"{rule}/backend/{place}": backend for place, backend in enumerate(routes.read_backends(route))}
    sums = {backend.version: Counters() for backend in clusters.values()}
    for pod in running:
        known = read_metrics(ask(pod["status"]["podIP"], _path(rule)), sums, clusters)
        missing = [name for name, backend in clusters.items() if backend.weight and name not in known]
        if missing:
            raise NotReady(f"{pod['metadata']['name']} counts no answers of {', '.join(missing)} yet")
    since = max(count.since, *(_started(pod) for pod in running))
    return {version: _answers(counters, since) for version, counters in sums.items()}


def read_metrics(text: str, sums: dict[int, Counters], clusters: dict[str, routes.Backend]) -> set[str]:
    """Add what one Envoy counted; the names of the clusters that it knows."""
    from prometheus_client.parser import text_string_to_metric_families

    known = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.labels.get("envoy_cluster_name", "")
            if name not in clusters:
                continue
            known.add(name)
            counters, value = sums[clusters[name].version], sample.value
            match sample.name.removeprefix("envoy_cluster_upstream_rq_"):
                case "completed" | "completed_total":
                    counters.completed += int(value)
                case "xx" | "xx_total" if sample.labels.get("envoy_response_code_class") == "5":
                    counters.failed += int(value)
                case "retry" | "retry_total":
                    counters.retried += int(value)
                case "time_bucket":
                    bound = float(sample.labels["le"])
                    counters.buckets[bound] = counters.buckets.get(bound, 0) + int(value)
    return known


def ask_pod(address: str, path: str) -> str:
    """Raises NotReady."""
    import httpx

    host = f"[{address}]" if ":" in address else address
    try:
        answer = httpx.get(f"http://{host}:{PORT}{path}", timeout=_WITHIN, trust_env=False)
    except httpx.HTTPError as error:
        raise NotReady(f"the gateway at {address} does not say what it counted: {error}") from error
    if answer.status_code != 200:
        raise NotReady(f"the gateway at {address} does not say what it counted: {answer.status_code}")
    return answer.text


def _path(rule: str) -> str:
    pattern = rf"^cluster\.{re.escape(rule)}/backend/[0-9]+\.{_COUNTERS}$"
    return f"/stats/prometheus?filter={quote(pattern, safe='')}"


def _answers(counters: Counters, since: datetime) -> Answers:
    return Answers(
        total=counters.completed + counters.retried,
        errors=counters.failed + counters.retried,
        latency_p50=_quantile(counters.buckets, 0.50),
        latency_p95=_quantile(counters.buckets, 0.95),
        counting_since=since,
    )


def _quantile(buckets: dict[float, int], share: float) -> float | None:
    """Seconds; linear between the bounds of Envoy's buckets. None without data, or beyond the last bound."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    below, low = 0, 0.0
    for bound in bounds:
        if total and buckets[bound] >= share * total:
            if bound == float("inf"):
                return None
            return (low + (bound - low) * (share * total - below) / (buckets[bound] - below)) / 1000
        below, low = buckets[bound], bound
    return None


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def _started(pod: Object) -> datetime:
    """When the newest of its containers did: counters begin anew with Envoy's."""
    states = [each.get("state", {}).get("running", {}) for each in pod["status"].get("containerStatuses", [])]
    moments = [datetime.fromisoformat(state["startedAt"]) for state in states if state.get("startedAt")]
    if not moments:
        raise NotReady(f"{pod['metadata']['name']} does not say since when it counts")
    return max(moments)
