"""One performance of the story, from an empty folder to the report, with everything stopped at the end."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.flight_delay.demo.charts import GIB
from pipelines.flight_delay.demo.facts import Evidence, Story
from pipelines.flight_delay.demo.findings import (
    collect_evidence,
    count_cpus,
    describe_clients,
    describe_losses,
    list_libraries,
)
from pipelines.flight_delay.demo.plan import Plan
from pipelines.flight_delay.demo.report import write_report
from pipelines.flight_delay.demo.screen import Screen
from pipelines.flight_delay.demo.stage import Stage, prepare_environment, stop_platform
from pipelines.flight_delay.demo.story import Storyteller
from slipway.environment import open_environment
from slipway.errors import SlipwayError
from slipway.ledger import open_ledger

MODEL = "flight_delay"
STORY = "story.json"


@dataclass(frozen=True)
class Result:
    happened: bool
    summary: str


def perform(folder: Path, plan: Plan, *, keep: bool = False) -> Result:
    """Play the story below `folder` (run/ is made new) and leave report.html there.

    Whatever ends the story, what could be found is reported and, unless `keep`, every process is stopped.
    """
    folder = folder.resolve()
    environment = prepare_environment(folder / "run")
    teller, failure = None, ""
    try:
        screen = Screen(titles=[], start=plan.watched, end=plan.end)
        stage = Stage(environment, MODEL, screen)
        teller = Storyteller(stage, plan)
        screen.titles = [act.title for act in teller.acts]
        with screen.shown():
            try:
                teller.play()
            except SlipwayError as error:
                failure = str(error)
                screen.say(failure, style="bold red")
            screen.say("reading the evidence and writing the report")
            evidence = _look_back(teller)
            write_report(evidence, folder / "report.html")
    finally:
        if not keep:
            with suppress(KeyboardInterrupt):
                stop_platform(environment.file)
    return Result(
        happened=not failure and all(act.happened for act in teller.acts),
        summary=_summarize(evidence, folder / "report.html", failure),
    )


def _look_back(teller: Storyteller) -> Evidence:
    stage, plan = teller.stage, teller.plan
    environment = stage.environment
    story = Story(
        model=stage.model,
        first_version=teller.first_version,
        replay_start=plan.watched,
        replay_end=min(stage.now() or plan.watched, plan.end),
        sample=plan.sample,
        acts=teller.acts,
        memory=stage.memory,
        seconds=time.monotonic() - stage.screen.begun,
        cpus=count_cpus(),
        versions=list_libraries(),
        faults=teller.faults,
        losses=[
            *describe_clients(teller.asked, teller.loaded),
            *describe_losses(environment, stage.ledger, stage.model),
        ],
    )
    (environment.file.parent / STORY).write_text(story.model_dump_json(indent=1))
    return collect_evidence(environment, stage.ledger, story, judged_until=plan.judged)


def report_again(folder: Path, plan: Plan) -> Result:
    """The report anew from what the last run left. Raises SlipwayError when it left nothing."""
    file = folder.resolve() / "run" / STORY
    if not file.exists():
        raise SlipwayError(f"{file}: there is no finished story", hint="make demo")
    story = Story.model_validate_json(file.read_text())
    environment = open_environment(str(file.with_name("demo.toml")))
    evidence = collect_evidence(environment, open_ledger(environment), story, judged_until=plan.judged)
    write_report(evidence, folder.resolve() / "report.html")
    happened = all(act.happened for act in story.acts)
    return Result(happened=happened, summary=_summarize(evidence, folder / "report.html", ""))


def _summarize(evidence: Evidence, report: Path, failure: str) -> str:
    """What is printed last: the acts, the time and memory, and where the report lies."""
    story = evidence.story
    lines = [f"{'✓' if act.happened else '✕'} {act.title}" for act in story.acts]
    if failure:
        lines.append(f"the story ended early: {failure}")
    if evidence.comparison and evidence.comparison.pooled:
        pooled = evidence.comparison.pooled
        lines.append(
            f"living system against never retrained since {evidence.comparison.since:%d %b}: "
            f"{pooled.value:+.4f} AUC ({pooled.low:+.4f} to {pooled.high:+.4f})"
        )
    peak = max((sample.total for sample in story.memory), default=0) / GIB
    lines.append(f"took {story.seconds / 60:.1f} min and at most {peak:.1f} GiB on {story.cpus} cores")
    lines.append(f"report: {report}")
    return "\n".join(lines)
