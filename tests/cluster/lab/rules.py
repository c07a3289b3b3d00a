"""What controllers have made, held against the rules of the policy pack, as if our own program had made it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infra.policies import pack
from infra.policies.exceptions import load_exceptions
from infra.policies.objects import KubeObject

Object = dict[str, Any]

NEEDED = ("NetworkPolicy", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
"""Kinds that the rules look at beside a pod: who may reach it, and what its account may do."""


def findings(made: Iterable[Object], ours: Iterable[Object]) -> list[str]:
    """What these objects break, beside ours that they live with."""
    things = [KubeObject(each) for each in made]
    verdict = pack.judge([*things, *map(KubeObject, ours)], load_exceptions(pack.rule_names()))
    return [str(found) for found in verdict.findings if found.thing in things]
