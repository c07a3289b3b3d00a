"""The resident loop: finds windows that are due, has them examined, and says how far it has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING

from monitoring.champion import Champion, read_champion
from monitoring.examination import LENGTHS, Examiner
from monitoring.finding import inconclusive
from monitoring.reports import load_evidently
from monitoring.windows import Window, ended_windows
from slipway import logs
from slipway.contract import MODELS
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.heartbeat import Heartbeat
from slipway.ledger import Ledger, monitors, open_ledger, progress, releases

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from slipway.ledger.schema import ReleaseRow

PROCESS = "monitor"
ATTEMPTS = 3
"""Examinations of one window that may fail before it is stored as inconclusive: one window must not stop the others."""

REPLAY_PAUSE, LIVE_PAUSE, FAILED_PAUSE = 0.1, 10.0, 2.0
"""Seconds between turns."""

_Key = tuple[str, str, int, Window]


@dataclass
class Watch:
    """All champions of one environment. `turn` is cheap when nothing is due: it reads the clock and counts."""

    environment: Environment
    ledger: Ledger
    examiner: Examiner
    only: tuple[str, frozenset[str]] | None = None
    """One model and some kinds: for a single look, which reports no progress."""
    _done: set[_Key] = field(default_factory=set)
    _failures: Counter[_Key] = field(default_factory=Counter)
    _champions: dict[str, tuple[tuple[int, int], Champion]] = field(default_factory=dict)
    _seen: tuple[datetime, int | None] | None = None

    def turn(self, as_of: datetime) -> int:
        """Examine every window that is due at `as_of`; returns how many were.

        Reports progress up to `as_of` once no due window is left, which a replay waits for. A window that ended but
        whose log rows are still on their way holds the progress back.
        """
        changes = self.ledger.count_changes()
        if changes is not None and self._seen == (as_of, changes):
            return 0
        with self.ledger.read() as session:
            reached = progress.read(session)
            champions = [
                self._find_champion(session, release)
                for release in releases.list_all(session)
                if release.champion is not None
                and not release.archived
                and (self.only is None or release.model == self.only[0])
            ]
        complete_to = reached.get("collector")
        examined, waiting = 0, False
        for champion in champions:
            for kind, window in self._open_windows(champion, as_of):
                if complete_to is None or complete_to < window.end:
                    waiting = True
                elif self.examiner.is_due(champion, kind, window, as_of):
                    examined += 1
                    waiting |= not self._examine(champion, kind, window, as_of)
            champion.forget_rows()
        if not waiting and self.only is None:
            if reached.get(PROCESS) is None or reached[PROCESS] < as_of:
                with self.ledger.transaction() as session:
                    progress.report(session, PROCESS, as_of)
            # Read before this turn's own commits: the next turn looks once more, and sees what others did meanwhile.
            self._seen = (as_of, changes)
        return examined

    def _open_windows(self, champion: Champion, as_of: datetime) -> Iterator[tuple[str, Window]]:
        """Ended windows of the tenure that are not done, by their ends: all kinds of one week share its rows."""
        windows = [
            (window, kind)
            for kind, length in LENGTHS.items()
            if self.only is None or kind in self.only[1]
            for window in ended_windows(length(champion.contract), champion.since, as_of)
            if (champion.model, kind, champion.version, window) not in self._done
        ]
        for window, kind in sorted(windows, key=lambda item: (item[0].end, item[0].start)):
            yield kind, window

    def _examine(self, champion: Champion, kind: str, window: Window, as_of: datetime) -> bool:
        """True once the window is dealt with; an examination that fails is tried again, then called inconclusive."""
        key = (champion.model, kind, champion.version, window)
        log = logs.get_logger("monitoring").bind(
            model=champion.model, monitor=kind, version=champion.version, window=str(window)
        )
        try:
            finding = self.examiner.examine(champion, kind, window, as_of)
        except Exception as error:
            self._failures[key] += 1
            log.exception("examination_failed", attempt=self._failures[key])
            if self._failures[key] < ATTEMPTS:
                return False
            told = error.message if isinstance(error, SlipwayError) else f"{type(error).__name__}: {error}"
            finding = inconclusive(f"the examination failed: {told}")
        self.examiner.keep(champion, kind, window, finding, as_of)
        self._done.add(key)
        self._failures.pop(key, None)
        log.info("window_examined", verdict=finding.verdict, metric=finding.metric, reason=finding.reason)
        return True

    def _find_champion(self, session: Session, release: ReleaseRow) -> Champion:
        """Kept for its tenure (with its reference sample) unless the contract was edited; what is stored is done."""
        edited = (MODELS / release.model / "model.yaml").stat().st_mtime_ns
        known = self._champions.get(release.model)
        if known is not None and known[0] == (release.epoch, edited):
            return known[1]
        champion = read_champion(session, self.environment, release)
        for row in monitors.recent(session, release.model, limit=100_000):
            self._done.add((row.model, row.kind, row.version, Window(row.window_start, row.window_end)))
        self._champions[release.model] = ((release.epoch, edited), champion)
        return champion


def watch_until(environment: Environment, stop: Event) -> None:
    """Work until `stop` is set: one turn after the other, with a short sleep between."""
    heartbeat = Heartbeat(environment, PROCESS)
    ledger = open_ledger(environment)
    heartbeat.beat()
    watch = Watch(environment, ledger, Examiner(environment, ledger))
    log = logs.get_logger("monitoring")
    load_evidently()
    log.info("watching")
    # Under a live clock event time moves always, and no window is shorter than hours.
    pause = LIVE_PAUSE if environment.settings.clock.source == "utc" else REPLAY_PAUSE
    while not stop.is_set():
        heartbeat.beat()
        try:
            as_of = environment.clock.as_of()
        except SlipwayError:
            as_of = None  # nothing has been replayed yet
        try:
            examined = watch.turn(as_of) if as_of is not None else 0
        except (SlipwayError, OSError) as error:
            log.error("turn_failed", error=str(error))
            stop.wait(FAILED_PAUSE)
            continue
        if not examined:
            stop.wait(pause)
    ledger.close()
