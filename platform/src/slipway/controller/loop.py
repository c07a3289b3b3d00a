"""The loop: one instance, woken by changes of the ledger or of event time, one pass over every model each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime
from threading import Event

from filelock import FileLock, Timeout

from slipway.contract import Contract, load_contract
from slipway.controller import intake, reconcile, retraining
from slipway.controller.advance import Advance
from slipway.controller.background import Background
from slipway.controller.outreach import Outreach
from slipway.controller.revisions import Revisions
from slipway.controller.world import World
from slipway.environment import Environment
from slipway.errors import Conflict, SlipwayError
from slipway.ledger import Ledger, chain, progress, releases
from slipway.logs import get_logger
from slipway.retention import Retention
from slipway.targets import Target

POLL_SECONDS = 0.05
"""How often the cheap signs of change are read: the ledger's change number and the clock."""
PASS_SECONDS = 2.0
"""Longest time without a pass: what happens outside the ledger (a restarted gateway, a lost server) is seen then."""
REST, LONGEST_REST = 2.0, 0.5
"""Rest after a pass, in times of its own length, and its limit in seconds: while a replay moves the clock on and on,
passes take a third of a core at most."""
LEASE_SECONDS = 30
"""Longest wait for another controller to go."""
MOST_MOVES = 20
"""Passes over one model without a pause; a rollout has fewer states, so more would be a loop of our own making."""


class Loop:
    """The controller of one environment."""

    def __init__(
        self,
        environment: Environment,
        ledger: Ledger,
        target: Target,
        *,
        contracts: Callable[[str], Contract] = load_contract,
        executor: Executor | None = None,
    ) -> None:
        """`contracts` and `executor` stand in for files and threads in tests."""
        self._environment = environment
        self._ledger = ledger
        self._target = target
        self._contracts = contracts
        self._woken = Event()
        self._background = Background(executor, on_done=self._woken.set)
        self._revisions = Revisions(environment, target, self._background)
        self._advance = Advance()
        self._outreach = Outreach(environment, ledger, self._background)
        self._retention = Retention(environment, ledger)
        self._reported: datetime | None = None
        self._said: dict[str, str] = {}

    def run(self, stop: Event, *, on_turn: Callable[[], None] = lambda: None) -> None:
        """Turn until `stop` is set. Raises Conflict when another controller does not go away."""
        self._environment.state.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        lease = FileLock(self._environment.state.run / "controller.lock", timeout=LEASE_SECONDS, mode=0o600)
        try:
            with lease:
                get_logger().info("controller started")
                self._turn_until(stop, on_turn)
        except Timeout as error:
            raise Conflict("another controller holds this environment", hint="slipway status") from error
        finally:
            self._background.close()
        get_logger().info("controller ended")

    def _turn_until(self, stop: Event, on_turn: Callable[[], None]) -> None:
        signs: tuple[int | None, datetime | None] | None = None
        passed = rested = float("-inf")
        while not stop.is_set():
            on_turn()
            begun, now = time.monotonic(), self._read_signs()
            is_due = now != signs or self._woken.is_set() or begun >= passed + PASS_SECONDS
            if is_due and begun >= rested:
                self._woken.clear()
                signs, passed = now, begun
                try:
                    self.turn()
                except SlipwayError as error:
                    self._say("ledger", str(error))
                ended = time.monotonic()
                rested = ended + min(REST * (ended - begun), LONGEST_REST)
            stop.wait(POLL_SECONDS)

    def turn(self) -> bool:
        """One pass over every model; whether everything was found in order. Reports progress only then."""
        try:
            as_of = self._environment.clock.as_of()
        except SlipwayError as error:
            if self._said.get("clock") != error.message:
                self._said["clock"] = error.message
                get_logger().info("waiting for event time", because=error.message)  # no replay has begun yet
            return False
        with self._ledger.read() as session:
            reached = progress.read(session)
            models = {release.model for release in releases.list_all(session)}
            models |= set(progress.busy_models(session))
        settled = min(as_of, reached.get("collector", as_of))
        passes = [self._pass_over(model, as_of, settled) for model in sorted(models)]
        in_order = all(passes)
        self._outreach.send_alarms()
        if in_order:
            # What the monitor stores later may still ask for an action at its moment, so it is not dealt with yet.
            self._report(min(settled, reached.get("monitor", as_of)))
        return in_order

    def _pass_over(self, model: str, as_of: datetime, settled: datetime) -> bool:
        world = World(
            self._environment,
            self._ledger,
            self._target,
            self._revisions,
            self._background,
            self._contracts,
            model,
            as_of,
            settled,
        )
        try:
            for _ in range(MOST_MOVES):
                if not self._move(world):
                    break
            self._outreach.mirror(model)
            self._retention.sweep(world.contract, as_of)
        except Conflict as error:
            get_logger().info("somebody else was first", model=model, error=error.message)
            return False
        except SlipwayError as error:
            self._say(model, str(error))
            return False
        except Exception:
            # A defect in one model's pass must not stop the others'; progress is not reported, so it is seen.
            get_logger().exception("pass failed", model=model)
            return False
        self._said.pop(model, None)
        return True

    def _move(self, world: World) -> bool:
        """Everything that this model needs now, once; whether anything was done."""
        self._revisions.observe(world.model)
        try:
            done = [
                retraining.close_triggers(world),
                intake.report_failed_runs(world),
                intake.open_rollout(world),
                self._advance.move(world),
            ]
        finally:
            # Traffic follows the ledger whatever else fails (a broken contract, a log that cannot be read).
            changed = reconcile.reconcile(world)
        return any([*done, changed, retraining.raise_alarms(world), retraining.pull_trigger(world)])

    def _report(self, as_of: datetime) -> None:
        if self._reported is not None and as_of <= self._reported:
            return
        with self._ledger.transaction() as session:
            progress.report(session, "controller", as_of)
        self._reported = as_of
        chain.sign_head(self._environment, self._ledger)

    def _read_signs(self) -> tuple[int | None, datetime | None]:
        """What tells cheaply that there is something new; a live clock moves always and is no sign."""
        try:
            moved = None if self._environment.settings.clock.source == "utc" else self._environment.clock.as_of()
        except SlipwayError:
            moved = None
        return self._ledger.count_changes(), moved

    def _say(self, where: str, what: str) -> None:
        """Log a lasting fault once, not at each pass."""
        if self._said.get(where) != what:
            self._said[where] = what
            get_logger().error("pass not finished", where=where, error=what)
