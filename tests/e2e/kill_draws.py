"""One draw: a rollout of a new version on the running platform, and who is killed when in it."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from dataclasses import dataclass

from slipway import failpoints
from slipway.ledger import rollouts
from slipway.ledger.schema import RolloutRow
from slipway.targets.local.leftovers import find_leftovers
from slipway.targets.local.supervision import Supervisor
from tests.e2e.small_platform import DAY, REQUESTS, SmallPlatform, slipway, wait
from tests.integration.flight_revision import MODEL

VICTIMS = (
    "controller", "champion", "mlflow", "challenger", "collector", "envoy", "monitor", "portal", "runner",
    "supervisord", "ray", "reports", "previous",
)  # fmt: skip
"""Programs of supervisord, itself, and the servers by what they are at that moment."""
UNHEARD = {"controller", "mlflow", "collector", "runner", "monitor", "portal", "reports", "ray", "previous"}
"""Processes whose death no client notices."""
EITHER_WAY = {"challenger", "envoy", "supervisord"}
"""With these, answers of the challenger fail in the canary: hauling it back is as right an end as promoting it."""
MOMENTS = {"delivered": 6.0, "first step": 1.5, "first look": 0.5, "second step": 1.0, "second look": 0.5}
"""What goes on, and within how many seconds of its beginning the kill strikes."""
PLACES = [name for name in failpoints.FAILPOINTS if not name.startswith("trigger.")]
LIMIT = 180.0
MOST_DAYS = 40
"""Of event time, after which every rollout has ended: the contract's longest hold is 14 days a step."""


@dataclass(frozen=True)
class Draw:
    """Who is killed when; `places` are failpoints of the controller."""

    victim: str
    moment: str
    delay: float
    places: tuple[str, ...]
    good: bool

    @staticmethod
    def of(seed: int) -> Draw:
        draw = random.Random(seed)
        good = draw.random() < 0.75
        # A bad version does not live to see the second step.
        moment = draw.choice(list(MOMENTS)[: None if good else 3])
        return Draw(
            victim=VICTIMS[seed % len(VICTIMS)],
            moment=moment,
            delay=draw.uniform(0, MOMENTS[moment]),
            places=tuple(draw.sample(PLACES, draw.randint(1, 3))) if seed % 2 == 0 else (),
            good=good,
        )


class Rollout:
    """One rollout on the running platform, with the kill of a draw in it."""

    def __init__(self, platform: SmallPlatform, draw: Draw) -> None:
        self.platform, self.draw = platform, draw
        self.before = platform.release()
        self.failures: list[str] = []
        self._struck: threading.Thread | None = None
        self._errors: list[BaseException] = []

    def play(self) -> RolloutRow:
        """From registration to the end of the rollout."""
        try:
            return self._play()
        finally:
            if self._struck is not None:
                self._struck.join()
            # Whatever else has failed, it is because of this.
            if self._errors:
                raise self._errors[0]

    def _play(self) -> RolloutRow:
        platform = self.platform
        self.challenger = platform.register(good=self.draw.good)
        failpoints.arm(platform.environment.state.run, *self.draw.places)
        self._begin("delivered")
        platform.deliver(self.challenger)
        row = platform.wait_for_rollout(self.challenger, ("canary", *rollouts.CLOSED), LIMIT)
        began = platform.now()
        while row.state not in rollouts.CLOSED:
            assert platform.now() < began + MOST_DAYS * DAY, platform.describe()
            row = self._live_through(row)
        return row

    def _live_through(self, row: RolloutRow) -> RolloutRow:
        """Some days of event time: questions, labels, and the look that they allow."""
        platform, step = self.platform, "second" if row.step else "first"
        self._begin(f"{step} step")
        platform.wait_until_routed(self.challenger)
        days = 1 if row.step else 3
        for _ in range(days):
            self._ask(REQUESTS // days)
            platform.move_clock(DAY)
            platform.deliver_labels()
        self._begin(f"{step} look")
        platform.move_clock(DAY if row.step else 2 * DAY)
        platform.wait_for_look(row)
        self._wait_for_the_kill()
        return platform.wait_for_rollout(self.challenger, ("canary", *rollouts.CLOSED), LIMIT)

    def _ask(self, requests: int) -> None:
        asked = self.platform.ask(requests)
        self.failures += asked.failures
        self._wait_for_the_kill()

    def _begin(self, moment: str) -> None:
        if moment == self.draw.moment and self._struck is None:
            self._struck = threading.Thread(target=self._strike)
            self._struck.start()

    def _wait_for_the_kill(self) -> None:
        """A supervisord that was killed is brought back by a person before anything goes on."""
        if self._struck is not None and self.draw.victim == "supervisord":
            self._struck.join()

    def _strike(self) -> None:
        try:
            time.sleep(self.draw.delay)
            self._kill()
        except BaseException as error:
            self._errors.append(error)

    def _kill(self) -> None:
        platform, victim = self.platform, self.draw.victim
        if victim == "supervisord":
            os.kill(Supervisor(platform.environment).pid(), signal.SIGKILL)
            wait(lambda: not find_leftovers(platform.environment), 60, "the end of what supervisord had started")
            slipway(platform.environment, "up")
            return
        versions = {"champion": self.before.champion, "challenger": self.challenger, "previous": self.before.previous}
        platform.kill(f"revision-{MODEL}-{versions[victim]}" if victim in versions else victim)


def may_end_either_way(draw: Draw, row: RolloutRow) -> bool:
    """Whether hauling a good version back is as right an end as promoting it.

    A challenger whose own answers failed, and one that a busy machine made slow, are hauled back by the rules.
    """
    was_slow = re.fullmatch(r"(analysis|health): latency: median is [\d.]+ times the champion's", row.reason)
    return draw.victim in EITHER_WAY or bool(was_slow)
