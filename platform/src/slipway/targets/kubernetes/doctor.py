"""What standing up on Kubernetes needs, of this machine and of the cluster; every failure names its remedy.

It changes nothing. What only the cluster can tell is asked last, and not at all while there is none.
"""

from __future__ import annotations

from collections.abc import Iterator

from slipway.environment import Environment
from slipway.errors import InvalidInput, SlipwayError
from slipway.kubernetes_settings import KubernetesSettings
from slipway.targets.finding import Finding, finding
from slipway.targets.kubernetes import cloud_checks, cluster_checks, machine_checks
from slipway.targets.kubernetes.examined_cluster import ExaminedCluster, open_cluster
from slipway.targets.local.doctor import check_packages, check_private_files, check_python, check_venv

KUBECONFIG = "kubeconfig"
"""File below the environment's secrets, of a cluster that we made."""


def examine(environment: Environment) -> list[Finding]:
    """Run every check; none of them raises."""
    settings = environment.settings.kubernetes
    if settings is None:
        raise InvalidInput([])  # the settings refuse such a file before
    found = [check(environment) for check in (check_python, check_venv, check_packages, check_private_files)]
    for machine_check in (*machine_checks.CHECKS, cloud_checks.check_quotas):
        found += machine_check(environment, settings)
    found += _examine_cluster(environment, settings)
    return found


def _examine_cluster(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    try:
        cluster = open_cluster(settings, environment.state.secrets / KUBECONFIG)
    except InvalidInput as error:
        problem = error.problems[0]
        # Before the first `up` a cluster of ours is not missing.
        ok = settings.provider != "existing" and problem.hint.startswith("make up")
        yield finding("kubeconfig", ok, "none yet: the first `up` makes it" if ok else problem.message, problem.hint)
        return
    yield from _ask(cluster, settings, environment.settings.name)


def _ask(cluster: ExaminedCluster, settings: KubernetesSettings, environment: str) -> Iterator[Finding]:
    for check in cluster_checks.CHECKS:
        try:
            yield from check(cluster, settings, environment)
        except SlipwayError as error:
            name = check.__name__.removeprefix("check_")
            yield finding(f"cluster of context {cluster.context}: {name}", False, error.message, error.hint)
            if check is cluster_checks.CHECKS[0]:
                return  # nobody answers: the other questions would only wait
