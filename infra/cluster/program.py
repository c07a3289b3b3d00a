"""The cluster that the services stand on, on kind or on a cloud; what it is made of stands in the provider's module.

Nothing in it is a Kubernetes object: a cluster and the objects on it are never in one preview.
"""

from __future__ import annotations

import importlib

from infra.components.cluster_component import ClusterSite
from infra.components.secrets import SecretStore
from slipway.mirror.versions import load_versions
from slipway.settings import Settings
from slipway.state import State


def stand_up(settings: Settings) -> None:
    """The inline program of project `slipway-cluster`."""
    kubernetes = settings.kubernetes
    if kubernetes is None or kubernetes.provider == "existing":
        raise ValueError("the cluster project needs an environment whose provider makes a cluster")
    site = ClusterSite(
        settings.name,
        kubernetes,
        load_versions(mirror=kubernetes.mirror.dir),
        SecretStore(State(settings.state_dir).secrets),
    )
    # The libraries of the clouds are large: only the one that is asked for is imported.
    importlib.import_module(f"infra.cluster.{kubernetes.provider}").stand_up(site).export()
