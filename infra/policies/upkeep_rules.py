"""Rules about what an object owes to those who look after it: labels, disruption budgets, being seen at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.policies.objects import UNKNOWN, KubeObject, mapping
from infra.policies.pods import TEMPLATES, pods_of

LABELS = ("slipway.dev/environment", "slipway.dev/team", "slipway.dev/model")
"""By these, cost per environment, team and model can be asked."""


def labelled_for_cost(thing: KubeObject) -> Iterator[str]:
    """An object and its pods say which environment, team and model they belong to: who pays."""
    missing = [label for label in LABELS if not thing.labels.get(label)]
    if missing:
        yield f"has no label {', '.join(missing)}; take its metadata from the component"
    for pod in pods_of(thing):
        missing = [label for label in LABELS if not pod.labels.get(label)]
        if missing and (thing.group, thing.kind) in TEMPLATES:
            yield f"{pod.where} has no label {', '.join(missing)}; label the template, too"


def seen_by_the_engine(thing: KubeObject) -> Iterator[str]:
    """No Helm release: its objects are hidden from preview, drift and every rule here; a chart's are not."""
    if (thing.group, thing.kind) == ("helm.sh", "Release"):
        yield "is a Helm release; render it as a chart"


def budget_lets_nodes_drain(objects: Sequence[KubeObject]) -> Iterator[tuple[KubeObject, str]]:
    """A PodDisruptionBudget protects pods that exist and lets at least one of them go, or no node is ever drained."""
    for budget in (thing for thing in objects if thing.kind == "PodDisruptionBudget"):
        least, most = budget.spec.get("minAvailable"), budget.spec.get("maxUnavailable")
        if most in (0, "0", "0%"):
            yield budget, "maxUnavailable is 0: no pod may ever leave; set 1"
        if least == "100%":
            yield budget, "minAvailable is 100%: no pod may ever leave; set maxUnavailable = 1"
        protected = [thing for thing in objects if _protects(budget, thing)]
        if not protected and not _made_by_operator(budget, objects):
            yield budget, "its selector matches no workload; correct spec.selector, or remove the budget"
        for thing in protected:
            replicas = thing.spec.get("replicas", 1)
            if isinstance(least, int | float) and isinstance(replicas, int | float) and least >= replicas:
                yield (
                    budget,
                    f"minAvailable {least:g} of the {replicas:g} replicas of {thing.where}: no pod may ever leave; "
                    "add replicas, or remove the budget",
                )


def _protects(budget: KubeObject, thing: KubeObject) -> bool:
    if thing.namespace != budget.namespace or thing.kind not in ("Deployment", "StatefulSet"):
        return False
    return any(_matches(mapping(budget.spec.get("selector")), pod.labels) for pod in pods_of(thing))


def _made_by_operator(budget: KubeObject, objects: Sequence[KubeObject]) -> bool:
    """Whether a custom resource of the namespace leads to pods, whose labels its operator chooses."""
    return any(
        thing.namespace == budget.namespace and thing.group not in ("", "apps", "batch") and any(pods_of(thing))
        for thing in objects
    )


def _matches(selector: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    wanted = mapping(selector.get("matchLabels"))
    if not wanted and not selector.get("matchExpressions"):
        return True
    return UNKNOWN in wanted.values() or all(labels.get(key) == value for key, value in wanted.items())
