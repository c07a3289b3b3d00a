"""One look at one model, asked for by a person: the due windows now, or any span of event time.

A span that a person names is shown and never stored: windows chosen by looking at them must not count as evidence.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from monitoring.champion import Champion, read_champion
from monitoring.examination import LENGTHS, Examiner
from monitoring.watch import Watch
from monitoring.windows import Window, parse_window
from slipway.environment import Environment
from slipway.errors import Refused, Unknown
from slipway.ledger import Ledger, monitors, open_ledger, releases
from slipway.ledger.schema import MonitorRow


def look_once(environment: Environment, model: str, *, window: str | None, kinds: Sequence[str]) -> None:
    """Print one JSON line a finding. Raises Unknown, InvalidInput, or Refused when the model has no champion."""
    for kind in kinds:
        if kind not in LENGTHS:
            raise Unknown("kind", kind, list(LENGTHS))
    chosen = list(kinds) or list(LENGTHS)
    span = parse_window(window) if window else None
    ledger = open_ledger(environment)
    champion = _read_champion(environment, ledger, model)
    examiner = Examiner(environment, ledger)
    if span is not None:
        _print(_examine_span(examiner, champion, span, chosen))
        return
    Watch(environment, ledger, examiner, only=(model, frozenset(chosen))).turn(environment.clock.as_of())
    with ledger.read() as session:
        _print(
            _describe(row)
            for kind in chosen
            for row in monitors.recent(session, model, kind, epoch=champion.epoch, limit=1)
        )


def _read_champion(environment: Environment, ledger: Ledger, model: str) -> Champion:
    with ledger.read() as session:
        release = releases.require(session, model)
        if release.champion is None:
            raise Refused(f"{model}: has no champion to watch", hint=f"slipway train {model}")
        return read_champion(session, environment, release)


def _examine_span(
    examiner: Examiner, champion: Champion, span: Window, kinds: Sequence[str]
) -> Iterable[dict[str, Any]]:
    as_of = champion.environment.clock.as_of()
    for kind in kinds:
        finding = examiner.examine(champion, kind, span, as_of)
        yield {
            "model": champion.model,
            "kind": kind,
            "version": champion.version,
            "window": str(span),
            "verdict": finding.verdict,
            "metric": finding.metric,
            "reason": finding.reason,
            "numbers": finding.numbers,
            "stored": False,
        }


def _describe(row: MonitorRow) -> dict[str, Any]:
    return {
        "model": row.model,
        "kind": row.kind,
        "version": row.version,
        "window": str(Window(row.window_start, row.window_end)),
        "verdict": row.verdict,
        "metric": row.metric,
        "reason": row.numbers.get("reason", ""),
        "numbers": {name: value for name, value in row.numbers.items() if name != "reason"},
        "stored": True,
    }


def _print(findings: Iterable[dict[str, Any]]) -> None:
    for finding in findings:
        sys.stdout.write(json.dumps(finding, default=str) + "\n")
