"""Who answers a model's requests: changed without dropping one, and counted by version.

The order of every change: clusters that the new routes need, then the routes, then the clusters that nobody uses any
more; each only when Envoy has taken the one before. It decides nothing; the controller does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from slipway import tokens
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady, Problem
from slipway.files import write_atomically
from slipway.targets import Answers, Traffic
from slipway.targets.local import envoy, xds
from slipway.targets.local.admin import ask

_SETTLE = 0.1
"""Seconds between new routes and the end of the old clusters: Envoy's workers take routes over one after the other."""


def render(environment: Environment) -> None:
    """Write all of Envoy's files anew from the traffic in force and the tokens as they are now; makes missing tokens.

    Done before Envoy is started and after a token was rotated. Returns when a running Envoy has taken them; raises
    NotReady otherwise.
    """
    tokens.prepare(environment)
    with envoy.writing(environment) as folder:
        wanted = envoy.documents(environment, _read_all(environment))
        envoy.write_bootstrap(environment, folder)
        if envoy.is_running(environment):
            envoy.replace(environment, folder, wanted)
        else:
            for name, document in wanted.items():
                envoy.write(folder, name, document)


def read_traffic(environment: Environment, model: str) -> Traffic | None:
    """What is in force; None when the model is not routed."""
    return _read_all(environment).get(model)


def set_traffic(environment: Environment, model: str, traffic: Traffic) -> None:
    """Route a model's requests; returns when Envoy has taken the routes. The same traffic again changes nothing.

    Raises InvalidInput for traffic that makes no sense. Raises NotReady when Envoy does not run or does not take the
    routes; then the former ones stay in force.
    """
    _check(model, traffic)
    with envoy.writing(environment):
        before = _read_all(environment)
        was = before.get(model)
        if was is None or (was.champion, was.challenger) != (traffic.champion, traffic.challenger):
            _mark_latencies(environment, model)
        _change(environment, before, {**before, model: traffic})


def remove_traffic(environment: Environment, model: str) -> None:
    """Route the model no more: its requests are answered 404. Nothing happens when it is not routed."""
    with envoy.writing(environment):
        before = _read_all(environment)
        if model in before:
            _change(environment, before, {name: traffic for name, traffic in before.items() if name != model})


def count_answers(environment: Environment, model: str) -> dict[int, Answers]:
    """Attempts to deliver an answer, per version in the model's traffic, as Envoy counted them since it was started or
    the version joined the traffic; mirrored copies are not among them.

    A version's latency is that of the requests whose first choice it was, fallbacks included, since champion or
    challenger last changed: before, the champion had the machine to itself, and copies were made of no request. None
    for a version that is only a fallback. Raises NotReady when the model is not routed or Envoy does not say.
    """
    traffic = read_traffic(environment, model)
    if traffic is None:
        raise NotReady(f"{model} is not routed, so nobody counts its answers", hint=f"slipway train {model}")
    hosts = _host_counters(environment)
    histograms, marks = _latencies(environment, model), _read_marks(environment, model)
    since = _counting_since(environment)
    counts = {}
    for version in xds.versions_of(traffic):
        counters = hosts.get(f"{model}-{version}")
        if counters is None:
            raise NotReady(f"the gateway does not count the answers of {model} version {version}")
        name = xds.first_cluster(model, version)
        buckets = _count_since(histograms.get(name, []), marks.get(name, []))
        counts[version] = Answers(
            total=counters["rq_success"] + counters["rq_error"],
            errors=counters["rq_error"],
            latency_p50=_quantile(buckets, 0.50),
            latency_p95=_quantile(buckets, 0.95),
            counting_since=since,
        )
    return counts


def _check(model: str, traffic: Traffic) -> None:
    problems = []
    if not 0 <= traffic.percent <= 100:
        problems.append(Problem("traffic.percent", f"{traffic.percent} is not between 0 and 100"))
    if traffic.challenger is None and traffic.percent:
        problems.append(Problem("traffic.percent", f"{traffic.percent} % of {model} would have no challenger to go to"))
    if traffic.challenger == traffic.champion:
        problems.append(Problem("traffic.challenger", f"version {traffic.champion} is the champion already"))
    if problems:
        raise InvalidInput(problems)


def _change(environment: Environment, before: Mapping[str, Traffic], after: Mapping[str, Traffic]) -> None:
    folder = envoy.folder_of(environment)
    old, new = envoy.documents(environment, before), envoy.documents(environment, after)
    ask(environment, "/ready")  # an Envoy that is down changes nothing, not even the files
    try:
        both = _union(new["clusters.json"], old["clusters.json"])
        envoy.replace(environment, folder, {"clusters.json": both})
        envoy.replace(environment, folder, {"gateway.json": new["gateway.json"]})
    except NotReady:
        # What Envoy refused must not be what it finds when it restarts.
        for name, document in old.items():
            envoy.write(folder, name, document)
        raise
    _write_all(environment, after)
    if new["clusters.json"] != old["clusters.json"]:
        time.sleep(_SETTLE)
    envoy.replace(environment, folder, {"clusters.json": new["clusters.json"]})


def _union(new: xds.Document, old: xds.Document) -> xds.Document:
    """The new clusters and those old ones whose names the new ones do not have."""
    names = {cluster["name"] for cluster in new["resources"]}
    kept = [cluster for cluster in old["resources"] if cluster["name"] not in names]
    return xds.discovery([*new["resources"], *kept]) if kept else new


def _read_all(environment: Environment) -> dict[str, Traffic]:
    try:
        document = json.loads((environment.state.run / "traffic.json").read_text())
    except FileNotFoundError:
        return {}
    return {model: Traffic(**fields) for model, fields in document.items()}


def _write_all(environment: Environment, traffic: Mapping[str, Traffic]) -> None:
    document = {model: asdict(share) for model, share in sorted(traffic.items())}
    write_atomically(environment.state.run / "traffic.json", json.dumps(document, indent=2) + "\n")


def _host_counters(environment: Environment) -> dict[str, dict[str, int]]:
    """Cluster -> counters of its one endpoint. Those of the cluster itself would miss refused connections, and an
    aggregate's hide the attempts behind the answer."""
    found = {}
    for cluster in ask(environment, "/clusters?format=json")["cluster_statuses"]:
        for host in cluster.get("host_statuses", []):
            counters = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
            found[cluster["name"]] = counters
    return found


def _latencies(environment: Environment, model: str) -> dict[str, list[dict[str, Any]]]:
    """Cluster -> histogram of milliseconds, cut to whole ones, since the start."""
    pattern = f"%5Ecluster.{model}-[0-9]%2B-first.upstream_rq_time$"
    answer = ask(environment, f"/stats?format=json&histogram_buckets=detailed&filter={pattern}")
    found = {}
    for entry in answer["stats"]:
        for detail in entry.get("histograms", {}).get("details", []):
            name = detail["name"].removeprefix("cluster.").removesuffix(".upstream_rq_time")
            found[name] = detail.get("totals", [])
    return found


def _mark_latencies(environment: Environment, model: str) -> None:
    """Remember what was measured until now."""
    write_atomically(_marks_file(environment, model), json.dumps(_latencies(environment, model)) + "\n")


def _read_marks(environment: Environment, model: str) -> dict[str, list[dict[str, Any]]]:
    try:
        marks: dict[str, list[dict[str, Any]]] = json.loads(_marks_file(environment, model).read_text())
    except FileNotFoundError:
        return {}
    return marks


def _marks_file(environment: Environment, model: str) -> Path:
    return environment.state.run / f"latency-{model}.json"


def _count_since(buckets: list[dict[str, Any]], mark: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The buckets less what the mark holds. An Envoy that counts less than the mark was restarted after it."""
    marked = {float(bucket["lower_bound"]): int(bucket["count"]) for bucket in mark}
    left = [
        {**bucket, "count": int(bucket["count"]) - marked.pop(float(bucket["lower_bound"]), 0)} for bucket in buckets
    ]
    if marked or any(bucket["count"] < 0 for bucket in left):
        return buckets
    return left


def _quantile(buckets: list[dict[str, Any]], share: float) -> float | None:
    """A quantile in seconds from grouped data, linear inside a bucket; None without data.

    Envoy cuts to whole milliseconds and keeps two digits, so a bucket that begins at 7 holds 7.0 to 7.99.. ms and one
    that begins at 120 holds 120 to 129.99.. ms, whatever width it states.
    """
    total = sum(int(bucket["count"]) for bucket in buckets)
    if not total:
        return None
    wanted, seen = share * total, 0
    for bucket in sorted(buckets, key=lambda bucket: float(bucket["lower_bound"])):
        count, low = int(bucket["count"]), float(bucket["lower_bound"])
        width = max(1.0, float(bucket["width"]))
        if count and seen + count >= wanted:
            return (low + width * (wanted - seen) / count) / 1000
        seen += count
    raise AssertionError("unreachable: the counts add up to their total")


def _counting_since(environment: Environment) -> datetime:
    """When this Envoy process read its first configuration."""
    for section in ask(environment, "/config_dump?mask=last_updated,bootstrap.node.id")["configs"]:
        if section["@type"].endswith("BootstrapConfigDump"):
            return datetime.fromisoformat(section["last_updated"])
    raise NotReady("the gateway does not say since when it counts")
