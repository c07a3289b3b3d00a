"""The list of rules, and the one function that holds objects against them and against the exceptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from infra.policies import image_rules, network_rules, pod_rules, right_rules, secret_rules, upkeep_rules
from infra.policies.exceptions import CHECKOV, PolicyException
from infra.policies.objects import KubeObject
from infra.policies.pods import Pod, pods_of

PodRule = Callable[[Pod], Iterator[str]]
ObjectRule = Callable[[KubeObject], Iterator[str]]
StackRule = Callable[[Sequence[KubeObject]], Iterator[tuple[KubeObject, str]]]

POD_RULES: tuple[PodRule, ...] = (
    pod_rules.pod_security_restricted,
    pod_rules.no_host_access,
    pod_rules.read_only_root,
    pod_rules.requests_and_limits,
    image_rules.image_by_digest,
    image_rules.image_not_latest,
    image_rules.image_not_retired,
)
OBJECT_RULES: tuple[ObjectRule, ...] = (
    secret_rules.no_literal_secret,
    secret_rules.no_published_password,
    network_rules.namespace_enforces_restricted,
    network_rules.network_policy_is_narrow,
    network_rules.service_is_internal,
    right_rules.no_wildcard_rights,
    right_rules.no_escalating_rights,
    right_rules.no_admin_binding,
    upkeep_rules.labelled_for_cost,
    upkeep_rules.seen_by_the_engine,
)
STACK_RULES: tuple[StackRule, ...] = (
    network_rules.namespace_denies_by_default,
    right_rules.token_only_with_rights,
    upkeep_rules.budget_lets_nodes_drain,
)
"""These need to see all objects at once."""


@dataclass(frozen=True)
class Finding:
    rule: str
    thing: KubeObject
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.thing.where}: {self.message}"


@dataclass(frozen=True)
class Verdict:
    findings: tuple[Finding, ...] = ()
    """What breaks a rule and has no exception."""
    excepted: tuple[tuple[Finding, PolicyException], ...] = ()
    unused: tuple[PolicyException, ...] = ()
    """Exceptions from our rules that no object of our own needed: in a whole stack they are stale."""


def rule_names() -> set[str]:
    """Every rule by the name that exceptions and messages use."""
    return {rule.__name__ for rule in (*POD_RULES, *OBJECT_RULES, *STACK_RULES)}


def examine_object(thing: KubeObject) -> Iterator[Finding]:
    """What one object breaks by itself."""
    for pod in pods_of(thing):
        for pod_rule in POD_RULES:
            yield from (Finding(pod_rule.__name__, thing, message) for message in pod_rule(pod))
    for object_rule in OBJECT_RULES:
        yield from (Finding(object_rule.__name__, thing, message) for message in object_rule(thing))


def examine_stack(objects: Sequence[KubeObject]) -> Iterator[Finding]:
    """What shows only in all objects together."""
    for rule in STACK_RULES:
        yield from (Finding(rule.__name__, thing, message) for thing, message in rule(objects))


def judge(objects: Sequence[KubeObject], exceptions: Sequence[PolicyException]) -> Verdict:
    """All rules over all objects, exceptions taken off."""
    found = [finding for thing in objects for finding in examine_object(thing)] + list(examine_stack(objects))
    judged = [(finding, exception_for(finding, exceptions)) for finding in found]
    excepted = tuple((finding, entry) for finding, entry in judged if entry)
    used = {entry.name for _, entry in excepted}
    return Verdict(
        findings=tuple(finding for finding, entry in judged if not entry),
        excepted=excepted,
        unused=tuple(
            entry
            for entry in exceptions
            if entry.name not in used and not entry.brought_by and not CHECKOV.fullmatch(entry.rule)
        ),
    )


def exception_for(finding: Finding, exceptions: Sequence[PolicyException]) -> PolicyException | None:
    """The exception that covers the finding, if there is one."""
    return next((entry for entry in exceptions if entry.covers(finding.rule, finding.thing.where)), None)
