"""The demonstration's report: self-contained, escaped, and honest about what did not happen."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.flight_delay.demo.drawing import Scale, ticks
from pipelines.flight_delay.demo.facts import (
    Act,
    Comparison,
    Decision,
    Estimate,
    Evidence,
    Fact,
    Mark,
    MemorySample,
    Month,
    RolloutSpan,
    Span,
    Story,
    Timeline,
    Week,
    Window,
)  # fmt: skip
from pipelines.flight_delay.demo.report import NOTHING, render_report, write_report

START, END = datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 11, 1, tzinfo=UTC)
HOSTILE = "<script>alert('x')</script>"


def day(month: int, number: int) -> datetime:
    return datetime(2013, month, number, 12, tzinfo=UTC)


def around(value: float, half: float = 0.02) -> Estimate:
    return Estimate(low=value - half, value=value, high=value + half)


def make_month(month: int, living: float, first: float, recent: float) -> Month:
    return Month(
        month=datetime(2013, month, 1, tzinfo=UTC), flights=7000, late=0.22, living=around(living),
        first=around(first), recent=around(recent), difference=around(living - first, 0.012),
    )  # fmt: skip


@pytest.fixture
def evidence() -> Evidence:
    acts = [
        Act(
            title=title, asks="What this act asks for.", happened=True, seconds=100 + 20 * i, start=START, end=END,
            found=[Fact(name="gate of version 1", value="AUC 0.741 (0.722 to 0.760), floor 0.65", how="14 days")],
        )
        for i, title in enumerate(("Launch", "Months pass", "Good offline, bad online", "An operator", "A crash"))
    ]  # fmt: skip
    programs = ("ray", "mlflow", "reports", "monitor", "runner", "controller", "portal", "envoy", "revision 1")
    memory = [
        MemorySample(second=s, programs={name: int((9 - i) * 5e7 + s * 1e5) for i, name in enumerate(programs)})
        for s in range(0, 700, 5)
    ]  # fmt: skip
    aucs = [(0.745, 0.745, 0.745), (0.699, 0.694, 0.691), (0.774, 0.747, 0.767), (0.761, 0.733, 0.759),
            (0.753, 0.710, 0.754), (0.734, 0.696, 0.725), (0.748, 0.681, 0.726), (0.700, 0.677, 0.674)]  # fmt: skip
    weeks, moment = [], START
    while moment < END:
        champion = 1 if moment < day(5, 20) else 3 if moment < day(8, 14) else 5
        weeks.append(Week(start=moment, answers={champion: 1800, champion + 1: 120 if moment.day < 8 else 0}))
        moment += timedelta(days=7)
    windows = [
        Window(
            kind="performance", version=1, start=moment - timedelta(days=7), end=moment, metric=0.74 - i * 0.004,
            verdict=("good", "good", "bad", "inconclusive")[i % 4], threshold=0.70,
        )
        for i, moment in enumerate(day(3, 8) + timedelta(days=7 * n) for n in range(33))
    ]  # fmt: skip
    return Evidence(
        story=Story(
            model="flight_delay", first_version=1, replay_start=START, replay_end=END, sample=0.35, acts=acts,
            memory=memory, seconds=702.0, cpus=2, versions={"lightgbm": "4.7.0"},
    losses=[
                Fact(name="Requests that failed", value="0", how="seen by the client"),
                Fact(name="Log rows lost", value="0", how="answers counted by Envoy minus rows"),
            ],
        ),
        timeline=Timeline(
            champions=[
                Span(version=1, start=START, end=day(5, 18), why="launched"),
                Span(version=3, start=day(5, 18), end=day(8, 12), why="promoted after canary"),
                Span(version=5, start=day(8, 12), end=day(10, 15), why="promoted after canary"),
                Span(version=3, start=day(10, 15), end=END, why="rolled back by ada"),
            ],
            rollouts=[
                RolloutSpan(champion=1, challenger=3, start=day(5, 12), end=day(5, 18), state="done", reason=""),
                RolloutSpan(champion=3, challenger=4, start=day(7, 1), end=day(7, 6), state="aborted", reason=HOSTILE),
            ],
            marks=[
                Mark(lane="training", at=day(3, 1), good=False, label="validation stopped", text=HOSTILE),
                Mark(lane="training", at=day(3, 2), good=False, label="gate refused v2", text="shuffled labels"),
                Mark(lane="training", at=day(5, 11), good=True, label="v3 passed", text="by trigger"),
                Mark(lane="people", at=day(10, 15), good=False, label="rollback", text="by ada"),
                Mark(lane="fault", at=day(5, 14), good=False, label="kill -9 controller", text="went on"),
            ],
            windows=windows,
        ),
        comparison=Comparison(
            months=[make_month(i + 3, *row) for i, row in enumerate(aucs)], since=day(5, 18), until=END,
            flights=52000, days=166, pooled=around(0.041, 0.011), pooled_living=around(0.741),
            pooled_first=around(0.7), pooled_recent=around(0.731), recent_difference=around(0.01), recent_rows=49000,
        ),
        weeks=weeks,
        decisions=[
            Decision(
                at=day(5, 18), who="controller", what="Promoted version 3.", verdict="yes", because=HOSTILE,
                numbers=[Fact(name="auc of both", value="0.76 / 0.74", how=HOSTILE)],
            )
        ],
        events=57,
        chain_intact=True,
    )  # fmt: skip


def test_page_stands_alone(evidence: Evidence) -> None:
    page = render_report(evidence)
    assert not re.search(r"(?:src|href)=", page)
    assert "<script" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_everything_from_data_is_escaped(evidence: Evidence) -> None:
    page = render_report(evidence)
    assert page.count("&lt;script&gt;") >= 4
    assert HOSTILE not in page


def test_headline_names_the_act_that_did_not_happen(evidence: Evidence) -> None:
    evidence.story.acts[2].happened = False
    assert "The loop did not close: act 3 did not happen" in render_report(evidence)


def test_a_difference_whose_interval_holds_zero_is_not_called_a_gain(evidence: Evidence) -> None:
    assert evidence.comparison is not None
    evidence.comparison.pooled = around(0.005, 0.01)
    page = render_report(evidence)
    assert "Not shown." in page
    assert "beats the never-retrained" not in page


def test_a_run_that_stopped_early_still_gets_a_page(evidence: Evidence) -> None:
    bare = Evidence(
        story=evidence.story.model_copy(update={"acts": evidence.story.acts[:1], "memory": [], "first_version": None}),
        timeline=Timeline(champions=[], rollouts=[], marks=[], windows=[]),
        comparison=None, weeks=[], decisions=[], events=0, chain_intact=False,
    )  # fmt: skip
    page = render_report(bare)
    assert "nothing to compare" in page
    assert "BROKEN" in page


def test_months_without_labels_leave_a_gap_and_no_number(evidence: Evidence) -> None:
    assert evidence.comparison is not None
    evidence.comparison.months[0] = evidence.comparison.months[0].model_copy(
        update={"living": None, "difference": None}
    )
    assert render_report(evidence).count(NOTHING) >= 2


def test_page_is_replaced_in_one_step(evidence: Evidence, tmp_path: Path) -> None:
    write_report(evidence, tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.66, 0.78), (0.0, 1823.0), (0.0, 4.6)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_a_scale_of_one_value_does_not_divide_by_zero() -> None:
    assert Scale(1.0, 1.0, 0.0, 10.0)(1.0) == 0.0
