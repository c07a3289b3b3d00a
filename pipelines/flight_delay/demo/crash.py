"""`kill -9` of the controller in the middle of a rollout, and whether the rollout goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import psutil

from pipelines.flight_delay.demo.facts import Act, Fact, Mark
from pipelines.flight_delay.demo.stage import Missed, Stage
from slipway.ledger import rollouts
from slipway.ledger.schema import RolloutRow


@dataclass
class CrashWatch:
    """Kills the controller once, while a canary is answering requests, and measures how it goes on."""

    stage: Stage
    act: Act
    killed: int | None = None
    rollout: int | None = None
    came_back: int | None = None
    faults: list[Mark] = field(default_factory=list)

    def look(self) -> None:
        """One tick."""
        stage = self.stage
        if self.killed is None:
            with stage.ledger.read() as session:
                row = rollouts.open_for(session, stage.model)
            if row is not None and row.champion is not None and row.state == "canary":
                self._kill(row)
        elif self.came_back is None:
            process = stage.find_program("controller")
            if process is not None and process.pid != self.killed and process.status() != psutil.STATUS_ZOMBIE:
                self.came_back = process.pid
                seconds = time.monotonic() - stage.screen.begun - self.act.begun
                self.act.found.append(
                    Fact(name="supervisord", value=f"started it again as process {process.pid} after {seconds:.1f} s")
                )
        elif not self.act.seconds and self._read().state in rollouts.CLOSED:
            self.act.seconds = time.monotonic() - stage.screen.begun - self.act.begun
            self.act.end = stage.now()

    def judge(self, act: Act) -> None:
        """Whether the rollout went on to its end. Raises Missed."""
        if self.killed is None:
            raise Missed("there was no canary to kill the controller in")
        row = self._read()
        act.found.append(Fact(name=f"rollout of version {row.challenger}", value=f"{row.state}. {row.reason}"))
        if self.came_back is None or row.state not in rollouts.CLOSED:
            raise Missed(f"the rollout is {row.state}, the controller is {'back' if self.came_back else 'gone'}")

    def _kill(self, row: RolloutRow) -> None:
        stage = self.stage
        self.killed, self.rollout = stage.kill_program("controller"), row.id
        now = stage.environment.clock.as_of()
        self.act.begun, self.act.start = time.monotonic() - stage.screen.begun, now
        words = (
            f"rollout of version {row.challenger} at canary step {row.step + 1}, controller was process {self.killed}"
        )
        self.act.found.append(Fact(name=f"kill -9 at {now:%d %b %H:%M}", value=words))
        self.faults.append(Mark(lane="fault", at=now, good=False, label="kill -9 controller", text=words))
        stage.screen.say(f"kill -9 of the controller: {words}", style="bold yellow")

    def _read(self) -> RolloutRow:
        with self.stage.ledger.read() as session:
            return session.get_one(RolloutRow, self.rollout)
