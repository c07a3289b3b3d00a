"""The timeline of the report: what the ledger says happened, on the axis of event time, one lane for each kind."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup

from pipelines.flight_delay.demo.drawing import (
    WIDTH,
    Scale,
    TimeScale,
    colour_of,
    hint,
    line,
    month_axis,
    path,
    svg,
    tag,
    text,
)  # fmt: skip
from pipelines.flight_delay.demo.facts import Mark, RolloutSpan, Span, Timeline, Window

LEFT, RIGHT = 118.0, WIDTH - 12.0
ROW = 34.0
LANES = (
    ("champion", "champion"), ("rollout", "rollouts"), ("training", "training runs"), ("people", "people"),
    ("fault", "faults"),
)  # fmt: skip
VERDICTS = {"good": "good", "bad": "bad", "warn": "warn", "inconclusive": "unknown"}
CHART = 110.0
"""Height in pixels of the monitored AUC below the lanes."""


def draw_timeline(timeline: Timeline, start: datetime, end: datetime) -> Markup:
    """Champions, rollouts, trainings, people and faults, and below them each performance window with its verdict."""
    scale = TimeScale(start, end, LEFT, RIGHT)
    top = 6.0
    lanes = {name: top + i * ROW for i, (name, _) in enumerate(LANES)}
    chart_top = top + len(LANES) * ROW + 14
    bottom = chart_top + CHART
    parts = month_axis(scale, top, bottom)
    for name, title in LANES:
        parts.append(text(LEFT - 12, lanes[name] + 20, title, class_="lane", anchor="end"))
        parts.append(line(LEFT, lanes[name] + ROW - 2, RIGHT, lanes[name] + ROW - 2, class_="grid"))
    parts += [item for span in timeline.champions for item in _champion(span, scale, lanes["champion"])]
    parts += [item for rollout in timeline.rollouts for item in _rollout(rollout, scale, lanes["rollout"])]
    parts += _marks(timeline.marks, scale, lanes)
    parts += _windows([w for w in timeline.windows if w.kind == "performance"], scale, chart_top, bottom)
    return svg(bottom + 26, parts, label="timeline of the run in event time")


def _champion(span: Span, scale: TimeScale, y: float) -> list[str]:
    left, right = scale(span.start), max(scale(span.end), scale(span.start) + 2)
    words = f"version {span.version} champion from {span.start:%d %b %H:%M} to {span.end:%d %b %H:%M}: {span.why}"
    bar = tag("rect", hint(words), x=left, y=y + 5, width=right - left, height=22.0, rx=3, fill=colour_of(span.version))
    return [bar, text(left + 7, y + 20, f"v{span.version}", class_="onbar")] if right - left > 26 else [bar]


def _rollout(span: RolloutSpan, scale: TimeScale, y: float) -> list[str]:
    left, right = scale(span.start), max(scale(span.end), scale(span.start) + 3)
    verdict = {"done": "good", "aborted": "bad", "failed": "bad"}.get(span.state, "unknown")
    sign = {"done": "✓", "aborted": "✕", "failed": "✕"}.get(span.state, "…")
    words = f"challenger {span.challenger}: {span.state}, {span.start:%d %b} to {span.end:%d %b}. {span.reason}"
    bar = tag("rect", hint(words), x=left, y=y + 5, width=right - left, height=22.0, rx=3, class_=f"fill-{verdict}")
    return [bar, text(right + 4, y + 20, f"v{span.challenger} {sign}", class_=f"mark text-{verdict}")]


def _marks(marks: list[Mark], scale: TimeScale, lanes: dict[str, float]) -> list[str]:
    """Marks of one lane that would overlap share the label of the first; all keep their own dot and hint."""
    parts: list[str] = []
    labelled: dict[str, float] = {}
    for mark in sorted(marks, key=lambda item: item.at):
        x, y = scale(mark.at), lanes[mark.lane] + 16
        verdict = "good" if mark.good else "bad"
        parts.append(
            tag("circle", hint(f"{mark.at:%d %b %H:%M}: {mark.text}"), cx=x, cy=y, r=5.5, class_=f"fill-{verdict}")
        )
        width = 16 + 6.4 * len(mark.label)
        left = x + width > RIGHT
        if (x - width if left else x) > labelled.get(mark.lane, 0.0):
            place, anchor = (x - 9, "end") if left else (x + 9, "start")
            parts.append(text(place, y + 4, mark.label, class_=f"mark text-{verdict}", anchor=anchor))
            labelled[mark.lane] = x if left else x + width
    return parts


def _windows(windows: list[Window], scale: TimeScale, top: float, bottom: float) -> list[str]:
    """A dot at each window's end, at the height of its AUC; the dashed line is the limit of its champion."""
    known = [window for window in windows if window.metric is not None]
    parts = [text(LEFT - 12, (top + bottom) / 2, "monitored AUC", class_="lane", anchor="end")]
    if not known:
        return parts
    values = [w.metric for w in known if w.metric is not None] + [w.threshold for w in known if w.threshold is not None]
    y = Scale(min(values) - 0.01, max(values) + 0.01, bottom - 4, top + 4)
    for value in (min(values), max(values)):
        parts.append(text(RIGHT, y(value) - 4, f"{value:.2f}", class_="faint", anchor="end"))
    limits = [(scale(w.start), scale(w.end), y(w.threshold)) for w in known if w.threshold is not None]
    if limits:
        steps = [point for left, right, height in limits for point in ((left, height), (right, height))]
        parts.append(path(steps, class_="limit"))
    for window in known:
        threshold = f", limit {window.threshold:.3f}" if window.threshold is not None else ""
        words = (
            f"version {window.version}, {window.start:%d %b} to {window.end:%d %b}: "
            f"AUC {window.metric:.3f}{threshold}, {window.verdict}"
        )
        verdict = VERDICTS.get(window.verdict, "unknown")
        parts.append(
            tag(
                "circle", hint(words), cx=scale(window.end), cy=y(window.metric or 0.0), r=5.0, class_=f"fill-{verdict}"
            )
        )
    return parts
