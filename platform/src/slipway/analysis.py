"""The online check of a challenger: health from the split, quality from pairs.

Health: both versions answer their share of the requests; errors are counted by upstream attempt (the gateway's fallback
hides them from clients), latency as a ratio of medians, starvation as answers that never came. Quality: a tenth of the
traffic is far too little to see a hundredth of AUC, so both versions score the same requests (one answers, the other
gets a mirrored copy), and the difference is judged on those pairs whose labels are due, by a bootstrap over days.

Every function returns a finding with its numbers. A number that is missing makes a finding inconclusive, and only
findings that all pass let a rollout go on. Decides nothing about time: when to look is the controller's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from slipway.contract import Contract, RolloutPlan
from slipway.environment import Environment
from slipway.targets import Answers

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["pass", "fail", "inconclusive"]

LEAST_CHALLENGER_ANSWERS = 20
"""With fewer answers of the challenger nothing is said of its health."""
LEAST_DAYS = 3
"""A bootstrap over fewer days says nothing."""
LOOK_RISK, EARLY_RISK = 0.05, 0.001
"""Chance of calling errors that are within the limit too many: at the one look of a step, and at each of the many
glances in between, which together must not roll a sound version back."""
STARVATION_RISK = 1e-4
LATENCY_RESOLUTION = 0.002
"""Seconds. The gateway measures in milliseconds: a ratio of such medians means nothing below this difference."""
EARLY_LATENCY_ANSWERS = 100
EARLY_LATENCY_FACTOR = 2.0
"""Between looks latency is judged on at least this many answers, and against the limit times this factor: a server
that has just been started is slow for a while."""

Counts = dict[str, dict[str, Any]]
"""Version (as text, it is kept as JSON) -> answers and errors on this step, and the counters last read."""


@dataclass(frozen=True)
class Finding:
    """What one check says, and the numbers that it says it from."""

    check: str
    verdict: Verdict
    because: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_evidence(self) -> dict[str, Any]:
        return asdict(self)


def combine(findings: Sequence[Finding]) -> Verdict:
    """One failure fails, one doubt is a doubt; no findings at all are a doubt too."""
    verdicts = {finding.verdict for finding in findings}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "inconclusive"


def add_counts(counts: Mapping[str, Mapping[str, Any]], read: Mapping[int, Answers]) -> Counts:
    """Add what was answered since the last reading.

    The first reading of a version is the mark from which it is counted. Counters that have fallen, or that the gateway
    says it began anew, were reset: what they show now has been added since.
    """
    result: Counts = {version: dict(entry) for version, entry in counts.items()}
    for version, answers in read.items():
        since = answers.counting_since.isoformat() if answers.counting_since else None
        now = {"total_read": answers.total, "errors_read": answers.errors, "since": since}
        entry = result.setdefault(str(version), {"answers": 0, "errors": 0, **now})
        fell = answers.total < entry["total_read"] or answers.errors < entry["errors_read"]
        reset = fell or since != entry["since"]
        entry["answers"] += answers.total - (0 if reset else entry["total_read"])
        entry["errors"] += answers.errors - (0 if reset else entry["errors_read"])
        entry |= now
        entry["latency_p50"], entry["latency_p95"] = answers.latency_p50, answers.latency_p95
    return result


def count_answers(counts: Mapping[str, Mapping[str, Any]], *versions: int) -> int:
    """Answers of these versions together on this step."""
    return sum(int(counts.get(str(version), {}).get("answers", 0)) for version in versions)


def judge_health(
    counts: Mapping[str, Mapping[str, Any]],
    *,
    champion: int,
    challenger: int,
    percent: int,
    plan: RolloutPlan,
    early: bool,
) -> list[Finding]:
    """Errors, latency and starvation on this step. `early` asks only for failures that are beyond doubt."""
    ours, theirs = counts.get(str(challenger)), counts.get(str(champion))
    if ours is None or theirs is None:
        return [Finding("health", "inconclusive", "the gateway has counted no answers of both versions yet")]
    return [
        # Failed attempts are made again, several for one request: a dead champion must not make its challenger starve.
        _judge_starvation(ours["answers"], theirs["answers"] - theirs["errors"], percent),
        _judge_errors(ours, theirs, plan.limits.errors, EARLY_RISK if early else LOOK_RISK),
        _judge_latency(ours, theirs, plan.limits.latency_ratio, early),
    ]


def _judge_starvation(ours: int, theirs: int, percent: int) -> Finding:
    """Far fewer answers than its share: it refuses connections, or the gateway has given up on it."""
    total = ours + theirs
    expected = total * percent / 100
    numbers = {"answers": ours, "champion_answers": theirs, "expected": expected}
    if expected < LEAST_CHALLENGER_ANSWERS:
        return Finding(
            "starvation", "inconclusive", f"{total} answers are too few to see a share of {percent} %", numbers
        )
    if ours < expected / 2 and _at_most(ours, total, percent / 100) < STARVATION_RISK:
        return Finding("starvation", "fail", f"{ours} answers where {expected:.0f} were its share", numbers)
    return Finding("starvation", "pass", f"{ours} answers, its share is {expected:.0f}", numbers)


def _judge_errors(ours: Mapping[str, Any], theirs: Mapping[str, Any], limit: float, risk: float) -> Finding:
    """Exact binomial test of the challenger's errors against the limit, or the champion's share where that is higher:
    what both suffer is the surroundings' fault. It rolls nothing back then, and promotes nothing either."""
    answers, errors = int(ours["answers"]), int(ours["errors"])
    champion_share = theirs["errors"] / theirs["answers"] if theirs["answers"] else 0.0
    allowed = max(limit, champion_share)
    numbers = {
        "answers": answers, "errors": errors, "share": errors / answers if answers else None,
        "champion_share": champion_share, "limit": limit,
    }  # fmt: skip
    if answers < LEAST_CHALLENGER_ANSWERS:
        return Finding("errors", "inconclusive", f"{answers} answers are too few", numbers)
    if errors and allowed < 1 and _at_least(errors, answers, allowed) < risk:
        return Finding("errors", "fail", f"{errors} errors in {answers} answers, the limit is {limit:.2%}", numbers)
    if errors / answers <= limit:
        return Finding("errors", "pass", f"{errors} errors in {answers} answers", numbers)
    return Finding("errors", "inconclusive", f"{errors} errors in {answers} answers could be chance", numbers)


def _judge_latency(ours: Mapping[str, Any], theirs: Mapping[str, Any], limit: float, early: bool) -> Finding:
    """Ratio of medians: a tail of a few dozen answers is noise."""
    mine, champion = ours.get("latency_p50"), theirs.get("latency_p50")
    numbers = {
        "p50": mine,
        "champion_p50": champion,
        "p95": ours.get("latency_p95"),
        "champion_p95": theirs.get("latency_p95"),
        "limit": limit,
    }
    least = EARLY_LATENCY_ANSWERS if early else LEAST_CHALLENGER_ANSWERS
    if ours["answers"] < least or not mine or not champion:
        return Finding("latency", "inconclusive", "no median latency of enough answers of both versions", numbers)
    numbers["ratio"] = mine / champion
    if mine > champion * limit * (EARLY_LATENCY_FACTOR if early else 1.0) + LATENCY_RESOLUTION:
        return Finding("latency", "fail", f"median is {mine / champion:.2f} times the champion's", numbers)
    return Finding("latency", "pass", f"median is {mine / champion:.2f} times the champion's", numbers)


def read_pairs(
    environment: Environment, contract: Contract, *, champion: int, challenger: int, start: datetime, as_of: datetime
) -> pd.DataFrame:
    """Requests since `start` that both versions scored and whose cohort is due at `as_of`, one row each.

    Columns: day (UTC date of the entity's event time), champion, challenger (their predictions), label (NaN: missing).
    """
    from slipway.cohorts import judged_rows

    rows = judged_rows(
        environment, contract, start, as_of, as_of=as_of, versions=[champion, challenger], columns=["prediction"]
    )
    return pair_rows(rows, champion=champion, challenger=challenger)


def pair_rows(rows: pd.DataFrame, *, champion: int, challenger: int) -> pd.DataFrame:
    """One row for each prediction id that both versions scored; others say nothing about the difference."""
    rows = rows.dropna(subset=["prediction"])
    first = rows[rows["version"] == champion].drop_duplicates("id").set_index("id")
    second = rows[rows["version"] == challenger].drop_duplicates("id").set_index("id")
    pairs = first[["subject_time", "label", "prediction"]].join(second[["prediction"]], how="inner", rsuffix="_second")
    pairs["day"] = pairs["subject_time"].dt.floor("D")
    return pairs.rename(columns={"prediction": "champion", "prediction_second": "challenger"})[
        ["day", "champion", "challenger", "label"]
    ].reset_index(drop=True)


def judge_quality(pairs: pd.DataFrame, *, plan: RolloutPlan) -> Finding:
    """The paired difference of AUC, challenger minus champion, with its 95 % interval.

    Pass: the interval's low end lies above -auc_drop (not worse by more than is allowed). Fail: it does not, and the
    high end lies below zero (worse for certain, and not shown to be within what is allowed). Everything else,
    too few labels or days and one class included, is inconclusive.
    """
    from slipway.statistics import auc, paired_auc_difference

    judged = pairs.dropna(subset=["label"])
    days = int(judged["day"].nunique())
    numbers: dict[str, Any] = {
        "pairs": len(pairs), "labels": len(judged), "missing_labels": len(pairs) - len(judged), "days": days,
        "auc_drop": plan.limits.auc_drop,
    }  # fmt: skip
    if len(judged) < plan.min_labels or days < LEAST_DAYS:
        because = f"{len(judged)} labels of {days} days, needed are {plan.min_labels} of {LEAST_DAYS}"
        return Finding("quality", "inconclusive", because, numbers)
    labels, first, second = (judged[name].to_numpy() for name in ("label", "champion", "challenger"))
    difference = paired_auc_difference(labels, first, second, judged["day"].to_numpy())
    if difference is None:
        return Finding("quality", "inconclusive", "the labels do not tell (one class)", numbers)
    numbers |= {
        "auc_champion": auc(labels, first), "auc_challenger": auc(labels, second),
        "difference": difference.estimate, "low": difference.low, "high": difference.high,
    }  # fmt: skip
    said = f"AUC differs by {difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    if difference.low > -plan.limits.auc_drop:
        return Finding("quality", "pass", said, numbers)
    if difference.high < 0:
        return Finding("quality", "fail", said, numbers)
    return Finding("quality", "inconclusive", said, numbers)


def is_judged(quality: Finding) -> bool:
    """Whether there was enough to judge, whatever came out."""
    return quality.verdict != "inconclusive" or "difference" in quality.numbers


def _at_least(hits: int, trials: int, chance: float) -> float:
    """P(X >= hits) for a binomial X: exact, in logarithms."""
    return max(0.0, 1.0 - _at_most(hits - 1, trials, chance))


def _at_most(hits: int, trials: int, chance: float) -> float:
    """P(X <= hits) for a binomial X: exact, in logarithms."""
    if chance <= 0:
        return 1.0
    if chance >= 1:
        return 1.0 if hits >= trials else 0.0
    log_chance, log_rest = math.log(chance), math.log1p(-chance)
    whole = math.lgamma(trials + 1)
    return min(1.0, math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_chance + (trials - k) * log_rest)
        for k in range(hits + 1)
    ))  # fmt: skip
