"""Who types, and on which platform: the one of this machine, or of the pod that this runs in."""

from __future__ import annotations

import getpass
import os
import shlex
import sys

from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, Problem
from slipway.targets.kubernetes.names import SYSTEM


def open_platform() -> Environment:
    """The environment whose ledger and data are within reach. Raises InvalidInput where they are in a cluster.

    On this machine such an environment has a folder for the cluster's state: a ledger in it would be an empty one.
    """
    environment = open_environment()
    if environment.settings.target == "kubernetes" and environment.pod is None:
        raise _elsewhere(
            environment,
            f"kubectl -n {SYSTEM} exec deploy/controller -- env USER={shlex.quote(name_operator())} "
            f"python -m slipway {shlex.join(_without_environment(sys.argv[1:]))}",
        )
    return environment


def open_machine() -> Environment:
    """An environment of this machine, for what a cluster has other ways for. Raises InvalidInput for a cluster's."""
    environment = open_environment()
    if environment.settings.target == "kubernetes":
        raise _elsewhere(environment, "docs/clusters.md, Backup and restore")
    return environment


def name_operator() -> str:
    """Who is written into the ledger: the login's name, or a number where a pod has no accounts."""
    try:
        return getpass.getuser()[:63]
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _elsewhere(environment: Environment, hint: str) -> InvalidInput:
    return InvalidInput(Problem(environment.settings.name, "its ledger and data are in the cluster, not here", hint))


def _without_environment(arguments: list[str]) -> list[str]:
    """What follows `--env NAME`: a pod knows its own."""
    if arguments[:1] == ["--env"]:
        return arguments[2:]
    return arguments[1:] if arguments and arguments[0].startswith("--env=") else arguments
