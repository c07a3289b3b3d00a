"""Where the servers of revisions are: every pod that runs one, also those that drain or are not ready yet."""

from __future__ import annotations

from slipway.environment import Environment
from slipway.errors import InvalidSettings, Problem
from slipway.targets.kubernetes import names
from slipway.targets.kubernetes.cluster_api import ClusterApi

ROLE = {"slipway.dev/role": "revision"}


class RevisionPods:
    """Asks the API server; needs the right to list the pods of the serving namespace."""

    def __init__(self, environment: Environment) -> None:
        if environment.settings.kubernetes is None:
            raise InvalidSettings(Problem("target", "kubernetes needs the table [kubernetes]", 'provider = "existing"'))
        self._api = ClusterApi(environment.settings.kubernetes)

    def find(self) -> dict[str, tuple[str, int]]:
        """Name of each pod that runs to its address and port. Raises NotReady or Refused."""
        pods = self._api.find("v1", names.NAMESPACE, "pods", ROLE)
        return {
            pod["metadata"]["name"]: (pod["status"]["podIP"], names.PORT)
            for pod in pods
            if pod.get("status", {}).get("phase") == "Running" and pod["status"].get("podIP")
        }
