"""What is different where the cluster is of our own making: the account it is made in, and the order of things.

A cluster that is there already is `access`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from infra.engine import Engine, Project, projects_of
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem
from slipway.files import write_atomically
from slipway.targets.kubernetes.cloud_checks import list_obstacles
from slipway.targets.kubernetes.doctor import KUBECONFIG

Say = Callable[[str], None]


def check_account(environment: Environment, say: Say) -> None:
    """Raises InvalidInput with everything that keeps us from making a cluster: placeholders, tools, logins."""
    settings = environment.settings.kubernetes
    if settings is None or settings.provider == "existing":
        return
    if problems := list_obstacles(settings):
        raise InvalidInput(problems)
    if settings.is_cloud and not settings.network.api_from:
        say(
            "  the Kubernetes API answers inside the cluster's network only: stand it up from there, "
            "or set kubernetes.network.api_from"
        )


def list_previewed(environment: Environment, say: Say) -> Iterator[Project]:
    """The projects whose change can be known now: what stands on a cluster, once the cluster stands."""
    for project in projects_of(environment.settings):
        if project == "services" and _is_missing(environment, say):
            say("services: what they would change is known once the cluster stands")
            return
        yield project


def list_removed(environment: Environment, *, keep_data: bool) -> list[Project]:
    """The projects that `down` takes away, in its order. Data stays with the cluster whose volumes hold it.

    Raises InvalidInput: the settings protect the cluster.
    """
    settings = environment.settings.kubernetes
    projects = list(reversed(projects_of(environment.settings)))
    if keep_data:
        return [project for project in projects if project == "services"]
    if settings and settings.managed.protect:
        message = "true: cluster, database and bucket are not to be deleted"
        raise InvalidInput(
            Problem("kubernetes.managed.protect", message, "set it to false and run up, then down again")
        )
    return projects


def keep_kubeconfig(environment: Environment, say: Say) -> None:
    """Put the made cluster's kubeconfig beside the environment's secrets, where the command line looks for it."""
    file = environment.state.secrets / KUBECONFIG
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(file, Engine(environment, "cluster", say).read_secret("kubeconfig"), mode=0o600)


def forget_kubeconfig(environment: Environment) -> None:
    """Its cluster is gone."""
    (environment.state.secrets / KUBECONFIG).unlink(missing_ok=True)


def _is_missing(environment: Environment, say: Say) -> bool:
    settings = environment.settings.kubernetes
    made = settings is not None and settings.provider != "existing"
    return made and not Engine(environment, "cluster", say).count_resources()
