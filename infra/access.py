"""Whether we may and can work in an existing cluster, asked before anything is touched.

What is asked, and how, is `slipway doctor`'s. A cluster that `infra/cluster` makes is not asked: it is as we made it.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem
from slipway.files import write_atomically
from slipway.targets.kubernetes.cluster_checks import Check
from slipway.targets.kubernetes.examined_cluster import ExaminedCluster, Unreachable, open_cluster

_HOME = "cluster"
"""File beside the state: which cluster the objects in it stand in."""


def find_cluster(environment: Environment) -> ExaminedCluster | None:
    """The cluster that the settings mean, which answers; None where it is of our own making.

    Raises InvalidInput: no such file or context, no answer, or another cluster than the one that the state is about.
    """
    settings = environment.settings.kubernetes
    if settings is None or settings.provider != "existing":
        return None
    cluster = open_cluster(settings, environment.state.secrets)
    try:
        cluster.get("/version")
        _check_home(environment, cluster)
    except Unreachable as error:
        raise InvalidInput(Problem("kubernetes.kubeconfig", error.message, error.hint)) from error
    return cluster


def list_obstacles(cluster: ExaminedCluster, environment: Environment, checks: Sequence[Check]) -> list[Problem]:
    """Everything that the checks find fault with."""
    settings = environment.settings.kubernetes
    if settings is None:
        return []
    problems: list[Problem] = []
    for check in checks:
        try:
            found = list(check(cluster, settings, environment.settings.name))
        except Unreachable as error:
            problems.append(Problem(f"context {cluster.context}", error.message, error.hint))
            continue
        problems += [Problem(item.check, item.found, item.remedy) for item in found if not item.ok]
    return problems


def settle(environment: Environment, cluster: ExaminedCluster) -> None:
    """Remember that the environment stands in this cluster, whatever a kubeconfig's current context is later."""
    file = environment.state.root / "pulumi" / _HOME
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(file, f"{cluster.read_identity()}\n{cluster.context}\n", mode=0o600)


def leave(environment: Environment) -> None:
    """Nothing stands there any more: the next `up` may take another cluster."""
    (environment.state.root / "pulumi" / _HOME).unlink(missing_ok=True)


def _check_home(environment: Environment, cluster: ExaminedCluster) -> None:
    # Against another cluster the state's objects would all look deleted by hand, and would be made anew there.
    file = environment.state.root / "pulumi" / _HOME
    if not file.is_file():
        return
    identity, context = file.read_text().splitlines()
    if identity != cluster.read_identity():
        raise InvalidInput(
            Problem(
                "kubernetes.context",
                f"{environment.settings.name} stands in another cluster (context {context}) than {cluster}",
                f'set kubernetes.context = "{context}"; if that cluster is gone for good, remove {file.parent}',
            )
        )
