"""Servers: started and removed in the background, one thing at a time for each."""

from __future__ import annotations

from functools import partial

from slipway.controller.background import Background
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.failpoints import failpoint
from slipway.rollout import claim_revision
from slipway.targets import Target


class Revisions:
    """The servers of one target, as the controller saw them last."""

    def __init__(self, environment: Environment, target: Target, background: Background) -> None:
        self._environment = environment
        self._target = target
        self._background = background
        self._seen: dict[str, dict[int, bool]] = {}

    def observe(self, model: str) -> None:
        """Ask the target once for a pass: each question costs a probe of every server."""
        self._seen[model] = self._target.list_revisions(model)

    def ensure(self, model: str, version: int) -> bool:
        """Whether the server of this version is ready; if not, it is being started (or pauses after a failure)."""
        key = ("revision", model, version)
        if self._background.is_running(key):
            return False
        if self._seen[model].get(version):
            self._background.forget(key)
            return True
        self._background.start(key, partial(self._start, model, version))
        return False

    def failures(self, model: str, version: int) -> tuple[int, Exception | None]:
        """How often in a row it did not become ready, and why not the last time."""
        return self._background.failures(("revision", model, version))

    def remove_others(self, model: str, wanted: list[int]) -> bool:
        """Drain and stop every server that nobody wants or is about to promote; whether one was begun."""
        begun = False
        for version in sorted(self._seen[model]):
            key = ("revision", model, version)
            if version not in wanted and not self._background.is_running(key) and self._is_free(model, version):
                begun |= self._background.start(key, partial(self._remove, model, version))
        return begun

    def _is_free(self, model: str, version: int) -> bool:
        """Whether no command of a person's is starting this server at the moment, before it asks the ledger."""
        try:
            with claim_revision(self._environment, model, version, timeout=0):
                return True
        except NotReady:
            return False

    def _remove(self, model: str, version: int) -> None:
        with claim_revision(self._environment, model, version, timeout=0):
            failpoint("revision.before_removal")
            self._target.remove_revision(model, version)
            failpoint("revision.after_removal")

    def _start(self, model: str, version: int) -> None:
        failpoint("rollout.starting.before_revision")
        self._target.apply_revision(model, version)
        failpoint("rollout.starting.after_revision")
