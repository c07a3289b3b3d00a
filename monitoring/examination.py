"""One window of one kind: whether it is due, what is found, and how that is kept.

The finding, its event and its alarm are one transaction; the report is written before it under a name that the window
decides, so that a crash in between costs a repeated examination and leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from monitoring import drift, freshness, performance, quality, skew
from monitoring.champion import Champion
from monitoring.finding import Finding
from monitoring.reports import Reports, load_evidently, measure, quiet
from monitoring.windows import Window
from slipway import cohorts, inference_log
from slipway.contract import Contract
from slipway.environment import Environment
from slipway.labels import judged_at
from slipway.ledger import Ledger, alarms, events, monitors
from slipway.ledger.schema import MonitorRow

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session

LENGTHS: Mapping[str, Callable[[Contract], timedelta]] = {
    "performance": lambda contract: contract.monitors.performance.window,
    "drift": lambda contract: contract.monitors.drift.window,
    "quality": lambda contract: contract.monitors.drift.window,
    "skew": lambda contract: contract.monitors.drift.window,
    "freshness": lambda contract: freshness.WINDOW,
}
"""The kinds of monitor and the length of their windows."""


@dataclass
class Examiner:
    """Examines windows; keeps what is slow to open (Evidently, Feast) for the next one."""

    environment: Environment
    ledger: Ledger

    def __post_init__(self) -> None:
        self._reports = Reports(self.environment)
        self._store: Any = None
        self._judged_at: dict[tuple[str, Window], datetime] = {}

    def is_due(self, champion: Champion, kind: str, window: Window, as_of: datetime) -> bool:
        """Whether all that will ever be known of the window is known. The log must be complete up to its end.

        A performance window waits for the cohorts of its latest predictions; a prediction about a far future does not
        hold it up for longer than one more window.
        """
        if kind != "performance":
            return True
        delay = champion.contract.label.longest_delay
        if as_of < judged_at(window.end, delay) - timedelta(days=1):
            return False
        key = (champion.model, window)
        if key not in self._judged_at:
            rows = inference_log.read_rows(
                self.environment, champion.model, window.start, window.end, columns=["subject_time"]
            )
            latest = rows["subject_time"].max().to_pydatetime() if len(rows) else window.start
            self._judged_at[key] = min(judged_at(latest, delay), window.end + delay + (window.end - window.start))
        return as_of >= self._judged_at[key]

    def examine(self, champion: Champion, kind: str, window: Window, as_of: datetime) -> Finding:
        """Look at one window. Changes nothing but Evidently's state in memory."""
        contract = champion.contract
        if kind == "performance":
            return self._examine_performance(champion, window, as_of)
        rows = champion.rows(window)
        if kind == "drift":
            return drift.compare(rows, champion.reference(), contract)
        if kind == "quality":
            return quality.inspect(rows, champion.reference(), contract, self._earlier_rows(champion, window))
        if kind == "skew":
            return skew.examine_skew(self.environment, rows, contract, store=self._open_store())
        return freshness.examine_freshness(rows, self._newly_due(champion, window), contract)

    def keep(self, champion: Champion, kind: str, window: Window, finding: Finding, as_of: datetime) -> MonitorRow:
        """Store a finding with its report, event and alarm; one that is stored already stays as it is."""
        report = ""
        if finding.run is not None:
            facts = {"verdict": finding.verdict, "reason": finding.reason}
            report = self._reports.keep(
                finding.run, model=champion.model, kind=kind, version=champion.version, window=window, facts=facts
            )
        with self.ledger.transaction() as session:
            known = find_stored(session, champion, kind, window)
            if known is not None:
                return known
            row = monitors.store(
                session,
                model=champion.model,
                kind=kind,
                version=champion.version,
                epoch=champion.epoch,
                window_start=window.start,
                window_end=window.end,
                verdict=finding.verdict,
                metric=finding.metric,
                numbers=finding.describe(),
                report=report,
                as_of=as_of,
            )
            events.record(
                session,
                model=champion.model,
                kind="window_examined",
                actor="monitor",
                as_of=as_of,
                monitor=kind,
                version=champion.version,
                window=str(window),
                verdict=finding.verdict,
                metric=finding.metric,
                reason=finding.reason,
                report=report,
            )
            if row.verdict == "bad":
                alarms.raise_alarm(
                    session,
                    key=f"{champion.model}-{kind}-{champion.version}-{window.end.isoformat()}",
                    model=champion.model,
                    kind=f"{kind}_bad",
                    message=f"{champion.model} version {champion.version}, {kind}: {finding.reason}",
                    as_of=as_of,
                )
        self._expire_reports(champion, window)
        return row

    def _expire_reports(self, champion: Champion, window: Window) -> None:
        """Take away what the contract wants kept no longer; files first, so a crash in between is made good later."""
        kept = champion.contract.retention.reports
        with self.ledger.read() as session:
            old = [row.report for row in monitors.reported_before(session, champion.model, window.end - kept)]
        if not old:
            return
        for report in old:
            self._reports.remove(champion.model, report)
        with self.ledger.transaction() as session:
            for row in monitors.reported_before(session, champion.model, window.end - kept):
                if row.report in old:
                    row.report = ""

    def _examine_performance(self, champion: Champion, window: Window, as_of: datetime) -> Finding:
        contract = champion.contract
        columns = ["version", "delivered", "event_time", "subject_time", "prediction"]
        columns += [f"in_{name}" for name in contract.gate.slices]
        rows = cohorts.judged_rows(self.environment, contract, window.start, window.end, as_of=as_of, columns=columns)
        finding = performance.judge(rows, champion.version, champion.gate, contract)
        if finding.metric is None:
            return finding
        own = rows[(rows["version"] == champion.version) & rows["label"].notna()]
        return Finding(finding.verdict, finding.reason, finding.metric, finding.numbers, _draw_performance(own))

    def _earlier_rows(self, champion: Champion, window: Window) -> list[int]:
        with self.ledger.read() as session:
            rows = monitors.recent(session, champion.model, "quality", epoch=champion.epoch, limit=8)
        return [int(row.numbers.get("rows", 0)) for row in rows if row.window_end <= window.start]

    def _newly_due(self, champion: Champion, window: Window) -> pd.DataFrame:
        """Delivered predictions whose cohort became due inside the window, with their labels."""
        contract = champion.contract
        reach = contract.label.longest_delay + timedelta(days=3)
        rows = cohorts.judged_rows(
            self.environment,
            contract,
            window.start - reach,
            window.end,
            as_of=window.end,
            delivered=True,
            columns=["id", "subject_time"],
        )
        due = rows["subject_time"].dt.floor("D") + timedelta(days=1) + contract.label.longest_delay
        newly: pd.DataFrame = rows[due > window.start]
        return newly

    def _open_store(self) -> Any:
        """Feast's store, opened once: its import takes seconds."""
        if self._store is None:
            from feature_repo.store import open_store

            self._store = open_store(self.environment)
        return self._store


def find_stored(session: Session, champion: Champion, kind: str, window: Window) -> MonitorRow | None:
    """What was found in this window before, whoever looked."""
    return session.scalars(
        select(MonitorRow).where(
            MonitorRow.model == champion.model,
            MonitorRow.kind == kind,
            MonitorRow.version == champion.version,
            MonitorRow.window_start == window.start,
            MonitorRow.window_end == window.end,
        )
    ).one_or_none()


def _draw_performance(labelled: pd.DataFrame) -> Any:
    load_evidently()
    from evidently.metrics import LogLoss, RocAuc

    frame = labelled[["label", "prediction"]].astype({"label": "int64"})
    with quiet():
        return measure(
            [RocAuc(), LogLoss()],
            frame,
            None,
            numerical=["prediction"],
            categorical=["label"],
            classification=("label", "prediction"),
        )[0]
