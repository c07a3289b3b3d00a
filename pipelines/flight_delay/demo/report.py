"""The report: one self-contained page made from the evidence, and from nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.flight_delay.demo.charts import GIB, draw_memory, draw_months, draw_weeks, top_programs
from pipelines.flight_delay.demo.drawing import PALETTE, colour_of, tag
from pipelines.flight_delay.demo.facts import Comparison, Estimate, Evidence, Fact, MemorySample, Story
from pipelines.flight_delay.demo.timeline import draw_timeline

NOTHING = "\N{EN DASH}"
"""Stands where there is too little to say."""


@dataclass(frozen=True)
class Cost:
    """What one act took."""

    name: str
    seconds: float
    peak: str
    holders: str


def render_report(evidence: Evidence) -> str:
    """The page as HTML: no scripts, no outside resources, everything that came from data escaped."""
    story = evidence.story
    templates = Environment(
        loader=PackageLoader("pipelines.flight_delay.demo", "."), autoescape=True, undefined=StrictUndefined
    )
    templates.filters.update(day=_day, moment=_moment, duration=_duration, estimate=_estimate, difference=_difference)
    all_happened = bool(story.acts) and all(act.happened for act in story.acts)
    answered = sorted({version for week in evidence.weeks for version in week.answers})
    return templates.get_template("report.html.j2").render(
        evidence=evidence,
        story=story,
        comparison=evidence.comparison,
        headline=_headline(evidence, all_happened),
        verdict=_verdict(evidence.comparison) if evidence.comparison else "",
        all_happened=all_happened,
        cards=_cards(evidence),
        timeline=draw_timeline(evidence.timeline, story.replay_start, story.replay_end),
        months=draw_months(evidence.comparison) if evidence.comparison else "",
        weeks=draw_weeks(evidence.weeks),
        memory=draw_memory(story.memory, story.acts),
        versions=[(version, _swatch(colour_of(version))) for version in answered],
        programs=[(name, _swatch(PALETTE[i % len(PALETTE)])) for i, name in enumerate(top_programs(story.memory, 6))],
        costs=_costs(story),
    )


def write_report(evidence: Evidence, file: Path) -> None:
    """Put the page at `file` in one step: a reader sees the old page or the whole new one."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(render_report(evidence), encoding="utf-8")
    draft.replace(file)


def _headline(evidence: Evidence, all_happened: bool) -> str:
    if not all_happened:
        missing = [str(i) for i, act in enumerate(evidence.story.acts, start=1) if not act.happened]
        return f"The loop did not close: act {', '.join(missing)} did not happen"
    promoted = sum(1 for rollout in evidence.timeline.rollouts if rollout.state == "done" and rollout.champion)
    times = "once" if promoted == 1 else f"{promoted} times"
    return f"The loop closed by itself: the model decayed, was retrained and replaced {times}, with nobody typing"


def _verdict(comparison: Comparison) -> str:
    pooled = comparison.pooled
    if pooled is None:
        return "Too few labels to say."
    span = f"From the first automatic promotion ({_day(comparison.since)}) to {_day(comparison.until)}"
    numbers = f"{pooled.value:+.3f} AUC (95 % interval {pooled.low:+.3f} to {pooled.high:+.3f})"
    tail = f"on the same {comparison.flights:,} flights of {comparison.days} days"
    if pooled.low > 0:
        return f"Yes. {span}, the living system beats the never-retrained one by {numbers} {tail}."
    return f"Not shown. {span}, the difference is {numbers} {tail}: the interval holds zero."


def _cards(evidence: Evidence) -> list[Fact]:
    story, comparison = evidence.story, evidence.comparison
    cards = []
    if comparison and comparison.pooled:
        pooled = comparison.pooled
        cards.append(
            Fact(
                name=f"AUC against the never-retrained model since {_day(comparison.since)}, "
                f"95 % interval {pooled.low:+.3f} to {pooled.high:+.3f}",
                value=f"{pooled.value:+.3f}",
            )
        )
    states = [rollout.state for rollout in evidence.timeline.rollouts if rollout.champion]
    cards.append(
        Fact(
            name="challengers promoted and hauled back by the canary, without a person",
            value=f"{states.count('done')} / {states.count('aborted') + states.count('failed')}",
        )
    )
    answers = sum(count for week in evidence.weeks for count in week.answers.values())
    failed = next((fact.value for fact in story.losses if fact.name.startswith("Requests that failed")), "?")
    cards.append(Fact(name="predictions answered; requests that failed", value=f"{answers:,} / {failed}"))
    peak = max((sample.total for sample in story.memory), default=0) / GIB
    cards.append(
        Fact(
            name=f"wall time and most memory, the whole platform and the replay, {story.cpus} cores",
            value=f"{_duration(story.seconds)} / {peak:.1f} GiB",
        )
    )
    return cards


def _costs(story: Story) -> list[Cost]:
    costs = []
    for i, act in enumerate(story.acts, start=1):
        within = [sample for sample in story.memory if act.begun <= sample.second < act.begun + act.seconds]
        costs.append(_cost(f"{i}. {act.title}", act.seconds, within))
    return [*costs, _cost("All", story.seconds, story.memory)]


def _cost(name: str, seconds: float, samples: list[MemorySample]) -> Cost:
    if not samples:
        return Cost(name, seconds, "not sampled", "")
    most = max(samples, key=lambda sample: sample.total)
    held = sorted(most.programs.items(), key=lambda item: -item[1])[:5]
    holders = ", ".join(f"{program} {size / GIB:.2f}" for program, size in held)
    return Cost(name, seconds, f"{most.total / GIB:.2f}", holders)


def _swatch(colour: str) -> Markup:
    square = tag("rect", width=12, height=12, rx=3, fill=colour)
    return Markup(tag("svg", square, viewBox="0 0 12 12"))  # noqa: S704 -- made of constants


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B}"


def _moment(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %H:%M}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _estimate(value: Estimate | None) -> Markup | str:
    if value is None:
        return NOTHING
    return Markup("{:.3f} <span class='note'>±{:.3f}</span>").format(value.value, (value.high - value.low) / 2)


def _difference(value: Estimate | None) -> str:
    if value is not None and value.low == value.high == 0:
        return "the same model"
    return NOTHING if value is None else f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
