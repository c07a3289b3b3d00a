"""Tells others what the ledger says: the registry's aliases and the webhook. Best effort, in the background.

Nothing of the loop depends on it: a registry or a webhook that is down is tried again and holds nothing up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.controller.background import Background
from slipway.environment import Environment
from slipway.ledger import Ledger, alarms, releases, rollouts
from slipway.ledger.schema import AlarmRow

if TYPE_CHECKING:
    import httpx

POST_SECONDS = 10.0
POSTS = 3
"""Attempts before the webhook is left alone for a while."""

_Release = tuple[int | None, int | None, int | None]


class Outreach:
    """Remembers what the registry was told last, so that it is told only what is new; a restart tells it again."""

    def __init__(self, environment: Environment, ledger: Ledger, background: Background) -> None:
        self._environment = environment
        self._ledger = ledger
        self._background = background
        self._mirrored: dict[str, _Release] = {}

    def mirror(self, model: str) -> None:
        """Let the registry's aliases say what is released."""
        with self._ledger.read() as session:
            release = releases.read(session, model)
            rollout = rollouts.open_for(session, model)
        if release is None:
            return
        state = (release.champion, release.previous, rollout.challenger if rollout else None)
        if self._mirrored.get(model) != state:
            self._background.start(("mirror", model), lambda: self._mirror(model, state))

    def send_alarms(self) -> None:
        """Post what was not posted yet; an alarm counts as sent once the webhook has answered 2xx."""
        if not self._environment.settings.alerts.webhook or self._background.is_running("webhook"):
            return
        with self._ledger.read() as session:
            waiting = alarms.unsent(session)
        if waiting:
            self._background.start("webhook", lambda: self._send(waiting))

    def _mirror(self, model: str, state: _Release) -> None:
        from slipway.registry import Registry

        Registry(self._environment).mirror_release(model, *state)
        self._mirrored[model] = state

    def _send(self, waiting: list[AlarmRow]) -> None:
        import httpx

        with httpx.Client(timeout=POST_SECONDS) as client:
            for alarm in waiting:
                self._post(client, alarm)
                with self._ledger.transaction() as session:
                    alarms.mark_sent(session, alarm.id)

    def _post(self, client: httpx.Client, alarm: AlarmRow) -> None:
        import httpx
        from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

        @retry(
            retry=retry_if_exception_type(httpx.HTTPError),
            stop=stop_after_attempt(POSTS),
            wait=wait_exponential_jitter(initial=0.5, max=5),
            reraise=True,
        )
        def post() -> None:
            response = client.post(
                self._environment.settings.alerts.webhook,
                json={
                    "environment": self._environment.settings.name,
                    "model": alarm.model,
                    "kind": alarm.kind,
                    "message": alarm.message,
                    "key": alarm.key,
                    "as_of": alarm.as_of.isoformat(),
                },
                # A receiver that saw the alarm before a crash of ours can tell that it is the same one.
                headers={"Idempotency-Key": alarm.key},
            )
            response.raise_for_status()

        post()
