"""The local target: revisions are processes kept by supervisord, traffic is Envoy's."""

from __future__ import annotations

from filelock import FileLock

from slipway.endpoints import revision_socket
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.targets import Answers, Traffic
from slipway.targets.local import processes
from slipway.targets.local import traffic as gateway
from slipway.targets.local.configuration import revision_file
from slipway.targets.local.readiness import read_readiness, wait_until_ready
from slipway.targets.local.revisions import list_revisions, write_revision
from slipway.targets.local.supervision import Supervisor


class LocalTarget:
    """Implements `slipway.targets.Target`; safe to call from several processes."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def apply_revision(self, model: str, version: int) -> None:
        process = processes.revision_process(self._environment, model, version)
        with self._changing():
            write_revision(self._environment, process)
            Supervisor(self._environment).add(process.name)
        wait_until_ready(self._environment, [process])

    def remove_revision(self, model: str, version: int) -> None:
        process = processes.revision_process(self._environment, model, version)
        with self._changing():
            # The file goes first: killed after it, a stale process is left until the next start, and not for ever.
            revision_file(self._environment, process.name).unlink(missing_ok=True)
            Supervisor(self._environment).remove(process.name, process.stop_timeout)
        revision_socket(self._environment, model, version).unlink(missing_ok=True)

    def list_revisions(self, model: str) -> dict[int, bool]:
        wanted = {
            version: processes.revision_process(self._environment, name, version)
            for name, version in list_revisions(self._environment)
            if name == model
        }
        try:
            statuses = Supervisor(self._environment).read_statuses()
        except NotReady:
            statuses = {}
        ready = read_readiness(list(wanted.values()), statuses)
        return {version: ready[process.name] for version, process in wanted.items()}

    def set_traffic(self, model: str, traffic: Traffic) -> None:
        gateway.set_traffic(self._environment, model, traffic)

    def read_traffic(self, model: str) -> Traffic | None:
        return gateway.read_traffic(self._environment, model)

    def count_answers(self, model: str) -> dict[int, Answers]:
        return gateway.count_answers(self._environment, model)

    def _changing(self) -> FileLock:
        """Held while conf.d and supervisord's own list change together."""
        return FileLock(self._environment.state.run / "conf.lock", timeout=120)
