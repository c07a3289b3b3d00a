"""The report's charts: AUC by month, traffic by version, memory by program."""

from __future__ import annotations

from datetime import timedelta

from markupsafe import Markup

from pipelines.flight_delay.demo.drawing import (
    PALETTE,
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
    ticks,
)  # fmt: skip
from pipelines.flight_delay.demo.facts import Act, Comparison, Estimate, MemorySample, Month, Week

LEFT, RIGHT = 56.0, WIDTH - 16.0
LINES = (("living", "living system", 0.0), ("first", "never retrained", -8.0), ("recent", "same size, recent", 8.0))
"""Field of a month, what the legend calls it, and the shift in pixels that keeps the intervals apart."""
GIB = 1024**3


def draw_months(comparison: Comparison) -> Markup:
    """AUC by month with 95 % intervals, all lines on the same flights."""
    height, top, bottom = 340.0, 16.0, 300.0
    months = comparison.months
    estimates = [value for month in months for field, _, _ in LINES if (value := _estimate(month, field))]
    if not estimates:
        return svg(40, [text(LEFT, 24, "no month holds enough labels", class_="tick")], label="AUC by month: nothing")
    low, high = min(e.low for e in estimates), max(e.high for e in estimates)
    y = Scale(low - 0.01, high + 0.01, bottom, top)
    x = Scale(-0.5, len(months) - 0.5, LEFT, RIGHT)
    parts = [
        item
        for tick in ticks(y.low, y.high)
        for item in (
            line(LEFT, y(tick), RIGHT, y(tick), class_="grid"),
            text(LEFT - 8, y(tick) + 4, f"{tick:.2f}", class_="tick", anchor="end"),
        )
    ]
    for i, month in enumerate(months):
        parts.append(text(x(i), bottom + 18, f"{month.month:%b}", class_="tick", anchor="middle"))
        parts.append(text(x(i), bottom + 34, f"{month.flights:,}", class_="faint", anchor="middle"))
    for field, name, shift in (LINES[2], LINES[1], LINES[0]):
        points = [(x(i) + shift, e) for i, month in enumerate(months) if (e := _estimate(month, field))]
        parts.append(path([(px, y(e.value)) for px, e in points], class_=f"line {field}"))
        for (px, estimate), month in zip(points, (m for m in months if _estimate(m, field)), strict=True):
            words = f"{name}, {month.month:%B}: AUC {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
            parts.append(line(px, y(estimate.low), px, y(estimate.high), class_=f"whisker {field}"))
            parts.append(tag("circle", hint(words), cx=px, cy=y(estimate.value), r=4.5, class_=f"dot {field}"))
    return svg(height, parts, label="AUC by month of the living system and of the never-retrained model")


def _estimate(month: Month, field: str) -> Estimate | None:
    value = getattr(month, field)
    return value if isinstance(value, Estimate) else None


def draw_weeks(weeks: list[Week]) -> Markup:
    """Answers delivered by each version, week by week, stacked."""
    if not weeks:
        return svg(40, [text(LEFT, 24, "no answers", class_="tick")], label="traffic: nothing")
    top, bottom = 10.0, 190.0
    scale = TimeScale(weeks[0].start, weeks[-1].start + timedelta(days=7), LEFT, RIGHT)
    most = max(sum(week.answers.values()) for week in weeks)
    y = Scale(0, most, bottom, top)
    parts = [
        item
        for tick in ticks(0, most, 4)
        for item in (
            line(LEFT, y(tick), RIGHT, y(tick), class_="grid"),
            text(LEFT - 8, y(tick) + 4, f"{tick:,.0f}", class_="tick", anchor="end"),
        )
    ]
    parts += month_axis(scale, bottom, bottom)
    for week in weeks:
        left, right = scale(week.start) + 1, scale(week.start + timedelta(days=7)) - 1
        below = 0
        for version, count in sorted(week.answers.items()):
            words = f"version {version}: {count:,} answers in the week of {week.start:%d %b}"
            parts.append(
                tag(
                    "rect", hint(words), x=left, y=y(below + count), width=right - left,
                    height=max(y(below) - y(below + count), 0.5), fill=colour_of(version),
                )
            )  # fmt: skip
            below += count
    return svg(bottom + 26, parts, label="answers by version and week")


def draw_memory(samples: list[MemorySample], acts: list[Act]) -> Markup:
    """Proportional memory over wall time, stacked by program, the largest programs named."""
    if not samples:
        return svg(40, [text(LEFT, 24, "not sampled on this system", class_="tick")], label="memory: nothing")
    top, bottom = 22.0, 190.0
    programs = top_programs(samples, 6)
    x = Scale(0, max(samples[-1].second, 1.0), LEFT, RIGHT)
    y = Scale(0, max(sample.total for sample in samples) * 1.05, bottom, top)
    parts = [
        item
        for tick in ticks(0, y.high / GIB, 4)
        for item in (
            line(LEFT, y(tick * GIB), RIGHT, y(tick * GIB), class_="grid"),
            text(LEFT - 8, y(tick * GIB) + 4, f"{tick:g}", class_="tick", anchor="end"),
        )
    ]
    base = [0.0] * len(samples)
    for i, program in enumerate(programs):
        tops = [base[k] + _bytes_of(sample, program, programs) for k, sample in enumerate(samples)]
        outline = [(x(s.second), y(v)) for s, v in zip(samples, tops, strict=True)]
        outline += [(x(s.second), y(v)) for s, v in zip(reversed(samples), reversed(base), strict=True)]
        d = "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in outline) + "Z"
        parts.append(tag("path", hint(program), d=d, fill=PALETTE[i % len(PALETTE)], fill_opacity=0.8))
        base = tops
    for tick in ticks(0, x.high / 60, 8):
        parts.append(text(x(tick * 60), bottom + 16, f"{tick:g} min", class_="tick", anchor="middle"))
    for i, act in enumerate(acts, start=1):
        if act.seconds:
            parts.append(line(x(act.begun), top - 6, x(act.begun), bottom, class_="cut"))
            parts.append(text(x(act.begun) + 4, top - 8, f"act {i}", class_="faint"))
    return svg(bottom + 24, parts, label="memory over time by program")


def top_programs(samples: list[MemorySample], count: int) -> list[str]:
    """The programs that took most at any time, largest first, and `others` for the rest."""
    peak: dict[str, int] = {}
    for sample in samples:
        for program, size in sample.programs.items():
            peak[program] = max(peak.get(program, 0), size)
    ordered = sorted(peak, key=lambda name: -peak[name])
    return [*ordered[:count], "others"] if len(ordered) > count else ordered


def _bytes_of(sample: MemorySample, program: str, named: list[str]) -> float:
    if program == "others":
        return float(sum(size for name, size in sample.programs.items() if name not in named))
    return float(sample.programs.get(program, 0))
