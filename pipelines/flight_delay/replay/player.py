"""Plays event time forward: the past in one span, then day by day and tick by tick."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from feature_repo.flights.views import TICK
from pipelines.flight_delay.replay.barrier import LIMIT_SECONDS, Barrier
from pipelines.flight_delay.replay.client import MODEL, Client
from pipelines.flight_delay.replay.publisher import DAY, FIRST_DAY, LAST_DAY, Publisher, days
from pipelines.flight_delay.replay.questions import Book, Question, choose, read_key
from pipelines.flight_delay.source import read_flights
from slipway.clock import ReplayClock
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady, Problem
from slipway.files import write_atomically
from slipway.ledger import open_ledger, releases, rollouts

CALM_BATCH = 25
"""Rows in a request while no rollout is open."""


@dataclass(frozen=True)
class Plan:
    """What to play; times are UTC midnights."""

    start: datetime
    end: datetime
    sample: float = 1.0
    """Share of flights that ask for a prediction. At 0 everything is published at once and nobody waits."""
    batch: int | None = None
    """Rows in a request; None takes many, and one while a rollout is open: the gateway splits requests, not rows."""
    step: timedelta = TICK
    """Event time between two ticks of the replay, a multiple of the publication tick."""
    speed: float | None = None
    """Event seconds per second, at most; None: as fast as the platform keeps up."""
    barrier_limit: float = LIMIT_SECONDS

    def problems(self) -> list[Problem]:
        """Every mistake in the plan."""
        found = []
        for name, moment in (("--from", self.start), ("--to", self.end)):
            if moment.tzinfo is None or moment.astimezone(UTC).time() != datetime.min.time():
                found.append(Problem(name, f"{moment.isoformat()} is no midnight in UTC", "as in 2013-03-01"))
            elif not FIRST_DAY <= moment <= LAST_DAY:
                hint = f"{FIRST_DAY:%Y-%m-%d} to {LAST_DAY:%Y-%m-%d}"
                found.append(Problem(name, f"{moment:%Y-%m-%d} is outside the data", hint))
        if self.end < self.start:
            found.append(Problem("--to", f"{self.end:%Y-%m-%d} is before --from"))
        if not 0 <= self.sample <= 1:
            found.append(Problem("--sample", f"{self.sample:g} is no share", "0 to 1"))
        if self.batch is not None and not 1 <= self.batch <= 1000:
            found.append(Problem("--batch", f"{self.batch} rows", "1 to 1000"))
        if self.step < TICK or self.step % TICK or DAY % self.step:
            found.append(Problem("--step", f"{self.step} is no multiple of {TICK} that divides a day", "30m, 1h, 2h"))
        if self.speed is not None and self.speed <= 0:
            found.append(Problem("--speed", f"{self.speed:g} is not above 0"))
        return found


class Player:
    """Plays a plan in an environment. After a crash the same plan goes on where it stopped."""

    def __init__(
        self,
        environment: Environment,
        plan: Plan,
        said: Callable[[datetime, str], None],
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        found = plan.problems()
        if not isinstance(environment.clock, ReplayClock):
            found.append(Problem("clock.source", "is `utc`: a replay sets event time", 'clock.source = "replay"'))
        if found:
            raise InvalidInput(found)
        self._environment, self._plan, self._said = environment, plan, said
        self._transport = transport
        self._folder = environment.state.replay
        self._failed = 0

    async def play(self) -> dict[str, object]:
        """Play to the end. Returns the counts. Raises NotReady or SlipwayError when the platform does not keep up."""
        publisher = Publisher(self._environment)
        start = await self._catch_up(publisher)
        if start < self._plan.end:
            await self._play_days(publisher, start)
        return self._write_counts()

    async def _catch_up(self, publisher: Publisher) -> datetime:
        """Publish what lies before the first day to be played, in one span. Returns that day."""
        until = self._published_until()
        goal = self._plan.end if self._plan.sample == 0 else self._plan.start
        if until < goal:
            self._said(until, f"publishing until {goal:%Y-%m-%d}")
            rows = publisher.publish_span(until, goal)
            self._said(goal, f"{rows:,} feature rows published")
            self._set_clock(goal)
            self._note_published(goal)
        elif not self._clock_file.exists():
            self._set_clock(goal)
        return max(until, goal)

    async def _play_days(self, publisher: Publisher, start: datetime) -> None:
        key, flights = read_key(self._environment), read_flights()
        self._require_a_champion()
        book = Book(self._folder / "questions.db")
        barrier = Barrier(self._environment, limit=self._plan.barrier_limit)
        try:
            async with Client(self._environment, book, transport=self._transport) as client:
                for day in days(start, self._plan.end):
                    begun = time.monotonic()
                    questions = choose(flights, day, sample=self._plan.sample, key=key)
                    await self._play_day(publisher, client, day, questions)
                    await client.deliver(day + DAY)
                    await barrier.wait(day + DAY, lambda text, day=day: self._said(day, f"waiting: {text}"))  # type: ignore[misc]
                    self._note_published(day + DAY)
                    self._write_counts(book)
                    self._said(day + DAY, f"{len(questions)} asked in {time.monotonic() - begun:.1f} s")
        finally:
            book.close()

    async def _play_day(
        self, publisher: Publisher, client: Client, day: datetime, questions: Sequence[Question]
    ) -> None:
        rows = publisher.open_day(day)
        batch = self._plan.batch or (1 if self._rollout_is_open() else CALM_BATCH)
        by_tick: dict[datetime, list[Question]] = {}
        for question in questions:
            since_midnight = question.asked_at - day
            by_tick.setdefault(day + since_midnight // self._plan.step * self._plan.step, []).append(question)
        for tick in sorted(by_tick):  # a tick at which nobody asks is published together with the next
            await self._keep_speed(tick)
            rows.publish_until(tick)
            self._set_clock(tick)
            self._failed += await client.ask(by_tick[tick], batch=batch)
        rows.publish_until(day + DAY - timedelta(microseconds=1))
        publisher.close_day(day)
        await self._keep_speed(day + DAY)
        self._set_clock(day + DAY)

    async def _keep_speed(self, moment: datetime) -> None:
        if self._plan.speed is None or not self._clock_file.exists():
            return
        event_seconds = (moment - self._environment.clock.as_of()).total_seconds()
        await asyncio.sleep(max(0.0, event_seconds / self._plan.speed))

    def _set_clock(self, moment: datetime) -> None:
        clock = self._environment.clock
        assert isinstance(clock, ReplayClock)
        # A day that was interrupted is played again from its start; event time itself stays where it was.
        if not self._clock_file.exists() or moment > clock.as_of():
            clock.set(moment)

    @property
    def _clock_file(self) -> Path:
        return self._environment.state.clock_file

    def _require_a_champion(self) -> None:
        with open_ledger(self._environment).read() as session:
            release = releases.read(session, MODEL)
        if release is None or release.champion is None:
            raise NotReady(f"{MODEL} has no champion to ask", hint=f"slipway train {MODEL}")

    def _rollout_is_open(self) -> bool:
        with open_ledger(self._environment).read() as session:
            return rollouts.open_for(session, MODEL) is not None

    def _published_until(self) -> datetime:
        file = self._folder / "published.json"
        return datetime.fromisoformat(json.loads(file.read_text())["until"]) if file.exists() else FIRST_DAY

    def _note_published(self, until: datetime) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / "published.json", json.dumps({"until": until.isoformat()}))

    def _write_counts(self, book: Book | None = None) -> dict[str, object]:
        own = book or Book(self._folder / "questions.db")
        counts: dict[str, object] = {
            "as_of": self._environment.clock.as_of().isoformat(),
            "sample": self._plan.sample,
            **own.counts(),
        }
        if book is None:
            own.close()
        write_atomically(self._environment.state.run / "replay.json", json.dumps(counts, indent=1) + "\n")
        return counts
