"""Pages: templates rendered on the server, everything escaped, no script at all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from slipway.portal.overview import Event, Finding

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: browsers would then send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""On every answer of the portal."""

_WORDS = {
    "promoted": "Version {version} promoted to champion",
    "rolled_back": "Rolled back to version {to}",
    "resumed": "Automation resumed",
    "archived": "Model archived",
    "version_added": "Version {version} registered ({state})",
    "trigger_fired": "Retraining triggered by {because}",
    "trigger_closed": "Trigger closed",
    "run_submitted": "Training run {run} submitted",
    "run_succeeded": "Run {run} produced version {version}",
    "run_refused": "Run {run} refused at {step}",
    "run_failed": "Run {run} failed at {step}",
    "rollout_opened": "Rollout of version {challenger} opened",
    "rollout_moved": "Rollout of version {challenger}: {state}",
    "rollout_looked": "Canary of version {challenger} looked at",
    "rollout_done": "Rollout of version {challenger} done",
    "rollout_aborted": "Rollout of version {challenger} aborted",
    "rollout_failed": "Rollout of version {challenger} failed",
    "rollout_paused": "Rollout of version {challenger} paused",
    "rollout_resumed": "Rollout of version {challenger} goes on",
    "alarm_raised": "Alarm: {message}",
}


def render(template: str, **values: Any) -> str:
    """The page as text."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Templates:
    found = Templates(
        loader=PackageLoader("slipway.portal"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {"moment": moment, "title": title_of, "number": number, "words": words}
    found.globals["chart"] = chart
    return found


def moment(value: datetime | None) -> str:
    """UTC, to the minute."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if value else "not set"


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits; a dash for what is not known."""
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001 -- a dash as people print it


def words(value: str) -> str:
    return value.replace("_", " ")


def title_of(event: Event) -> str:
    """An event in a line of plain words; unknown kinds by their name."""
    known = {key: value for key, value in event.evidence.items() if isinstance(value, str | int | float)}
    try:
        return _WORDS[event.kind].format_map(known)
    except KeyError:
        return words(event.kind).capitalize()


def chart(series: Sequence[Finding], line: float | None, *, width: int = 560, height: int = 120) -> dict[str, Any]:
    """Points of a line chart of the windows' metric in pixels, by time; empty without two numbers.

    `line` is a level to draw across, the champion's value at the gate.
    """
    points = [finding for finding in series if finding.metric is not None]
    if len(points) < 2:
        return {}
    values = [finding.metric for finding in points if finding.metric is not None]
    levels = [*values, *([] if line is None else [line])]
    low, high = min(levels), max(levels)
    spread = max(high - low, 0.02)
    low, high = low - 0.1 * spread, low + 1.1 * spread
    first, last = points[0].window_end.timestamp(), points[-1].window_end.timestamp()
    left, top, bottom = 44, 8, 22
    span = max(last - first, 1.0)

    def x(finding: Finding) -> float:
        return round(left + (finding.window_end.timestamp() - first) / span * (width - left - 12), 1)

    def y(value: float) -> float:
        return round(top + (high - value) / (high - low) * (height - top - bottom), 1)

    return {
        "width": width, "height": height, "left": left, "bottom": height - bottom, "top": top,
        "dots": [{"x": x(f), "y": y(f.metric or 0.0), "finding": f} for f in points],
        "path": " ".join(f"{x(f)},{y(f.metric or 0.0)}" for f in points),
        "line": None if line is None else y(line),
        "low": low + 0.1 * spread, "high": max(levels), "y_low": y(min(levels)), "y_high": y(max(levels)),
        "start": points[0].window_end, "end": points[-1].window_end,
    }  # fmt: skip
