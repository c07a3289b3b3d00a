"""Rules about who may do what in the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from infra.policies.objects import KubeObject, items, mapping
from infra.policies.pods import pods_of

RBAC = "rbac.authorization.k8s.io"
EVERYBODY = {"system:anonymous", "system:unauthenticated", "system:authenticated", "system:serviceaccounts"}
POWERFUL = {"cluster-admin", "admin", "edit"}
"""Roles that Kubernetes ships and that read or write every Secret in reach."""
ESCALATING = {"escalate", "bind", "impersonate"}


def no_wildcard_rights(thing: KubeObject) -> Iterator[str]:
    """A role names the groups, resources and verbs that it grants; `*` grants what nobody has thought of yet."""
    for position, rule in _rules_of(thing):
        for name in ("apiGroups", "resources", "verbs", "nonResourceURLs"):
            if any(value == "*" or str(value).startswith("*/") for value in items(rule.get(name))):
                yield f"rules[{position}].{name} has a wildcard; name what is needed"


def no_escalating_rights(thing: KubeObject) -> Iterator[str]:
    """No role lets its holder take rights that it does not have."""
    for position, rule in _rules_of(thing):
        found = ESCALATING.intersection(map(str, items(rule.get("verbs"))))
        if found:
            yield f"rules[{position}].verbs has {', '.join(sorted(found))}; leave it out"


def no_admin_binding(thing: KubeObject) -> Iterator[str]:
    """No account of the platform is an administrator, and nothing is granted to everybody."""
    if thing.group != RBAC or thing.kind not in ("ClusterRoleBinding", "RoleBinding"):
        return
    role = mapping(thing.body.get("roleRef"))
    if role.get("kind") == "ClusterRole" and role.get("name") in POWERFUL:
        yield f"roleRef is {role['name']}; bind a role that names what is needed"
    for subject in map(mapping, items(thing.body.get("subjects"))):
        name = str(subject.get("name", ""))
        if name in EVERYBODY or name.startswith("system:serviceaccounts:"):
            yield f"subject {name} is everybody; name one account"


def token_only_with_rights(objects: Sequence[KubeObject]) -> Iterator[tuple[KubeObject, str]]:
    """A pod is given a token of its account only where a binding gives that account rights to use it for."""
    accounts = {
        (thing.namespace, thing.name): thing.body.get("automountServiceAccountToken")
        for thing in objects
        if thing.kind == "ServiceAccount"
    }
    bound = {
        (str(subject.get("namespace") or thing.namespace), str(subject.get("name")))
        for thing in objects
        if thing.group == RBAC
        for subject in map(mapping, items(thing.body.get("subjects")))
        if subject.get("kind") == "ServiceAccount"
    }
    for thing in objects:
        for pod in pods_of(thing):
            account = (pod.namespace, str(pod.spec.get("serviceAccountName") or "default"))
            said = pod.spec.get("automountServiceAccountToken")
            mounted = said if said is not None else accounts.get(account)
            if mounted is not False and account not in bound and not pod.token_is_the_operators:
                yield (
                    thing,
                    f"{pod.where} gets a token of account {account[1]}, which has no rights; "
                    "set automountServiceAccountToken = false",
                )


def _rules_of(thing: KubeObject) -> Iterator[tuple[int, dict[str, object]]]:
    if thing.group == RBAC and thing.kind in ("Role", "ClusterRole"):
        for position, rule in enumerate(items(thing.body.get("rules"))):
            yield position, dict(mapping(rule))
