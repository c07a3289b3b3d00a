"""The contract of a model: its `model.yaml`, typed, unknown keys refused, all mistakes reported at once.

Durations are of event time, except process time-outs (`training.deadline`, `serving.latency_p95`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from slipway.contract_file import read_document
from slipway.contract_values import Fraction, Name, Schedule, Share, Text
from slipway.durations import Duration, format_duration, parse_duration
from slipway.errors import InvalidContract, Problem, Unknown
from slipway.settings import REPOSITORY
from slipway.validation import HINT, BrokenRules, problems_of

MODELS = REPOSITORY / "pipelines"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Owner(Part):
    team: Text
    """Who answers for the model."""
    contact: Text
    """An address that somebody reads."""


class Entity(Part):
    keys: Annotated[list[Name], Field(min_length=1)]
    """Request fields that together name the thing predicted."""
    event_time: Name
    """Request field of type timestamp: the moment (UTC, RFC 3339) that the prediction is about."""


class RequestField(Part):
    name: Name
    """As clients spell it."""
    type: Literal["string", "int", "float", "bool", "timestamp"]
    """What a value must be; anything else is refused."""
    range: tuple[float, float] | None = None
    """Plausible limits of a number, both included (`[0, 6000]`); numbers outside are refused."""
    missing: Literal["reject", "allow"] = "reject"
    """Whether a request may leave the field out."""

    @model_validator(mode="after")
    def _limits_are_a_number_s_and_in_order(self) -> RequestField:
        if self.range is not None and self.type not in ("int", "float"):
            raise BrokenRules([("range", f"a {self.type} has no limits", "leave it out")])
        if self.range is not None and self.range[0] > self.range[1]:
            limits = f"{self.range[0]:g} is above {self.range[1]:g}"
            raise BrokenRules([("range", limits, "[lowest, highest]")])
        return self


class Features(Part):
    service: Name
    """A versioned Feast feature service; its transforms carry the same name."""
    on_missing: Literal["default", "reject"] = "default"
    """What happens when the store has no value in time: the documented default, or no prediction."""
    timeout: Duration = parse_duration("50ms")
    """Longest look-up; after it the defaults are used and counted."""


class Label(Part):
    name: Name
    """What is predicted; 1: it happened, 0: it did not."""
    known_at: Text
    """In words: when a label becomes known."""
    longest_delay: Duration
    """After event time plus this, a missing label counts as missing and a cohort is due."""


class Training(Part):
    engine: Literal["ray"] = "ray"
    """What runs the training job."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that train together, 1 to 64."""
    library: Literal["lightgbm"] = "lightgbm"
    """What trains; its text format is what a bundle carries."""
    parameters: dict[str, Any] = {}
    """Hyper-parameters in the library's own words."""
    rounds: Annotated[int, Field(ge=1)] = 250
    """Trees, at least 1."""
    window: str = Field(default="expanding", pattern=r"^(expanding|\d+d)$")
    """`expanding` takes all history; `90d` the last ninety days."""
    min_rows: Annotated[int, Field(ge=1)] = 1000
    """A snapshot with fewer training rows is refused; at least 1."""
    deadline: Duration = parse_duration("10m")
    """Process time-out of the training job."""
    seed: int = 1
    """Of everything random in training."""


class Floors(Part):
    auc: Share = 0.5
    """The least AUC of a first version, 0 to 1."""
    calibration_error: Share = 1.0
    """The largest expected calibration error allowed."""


class Gate(Part):
    metric: Literal["auc"] = "auc"
    """What decides between champion and challenger."""
    rule: Literal["not_worse", "better"] = "not_worse"
    """What a challenger must be, by `margin`."""
    margin: Share = 0.005
    """0 to 1. not_worse: the interval's low end must lie above -margin; better: above +margin."""
    floors: Floors = Floors()
    window: Duration = parse_duration("14d")
    """Event time whose rows judge, after training and the label's longest delay."""
    slices: list[Name] = []
    """Request fields; the metric may not collapse for any of their values."""
    slice_drop: Share = 0.05
    """Largest drop of the metric in any slice that is large enough to judge."""
    latency_ratio: Annotated[float, Field(gt=0)] = 3.0
    """Challenger's median scoring time over the champion's."""
    max_bytes: Annotated[int, Field(ge=1)] = 100_000_000
    """The largest model that passes."""


class Resources(Part):
    cpu: Annotated[float, Field(gt=0)] = 1
    """Cores, above 0."""
    memory: str = Field(default="1Gi", pattern=r"^[1-9]\d*(Mi|Gi)$")
    """As Kubernetes writes it: `512Mi`, `1Gi`."""
    gpu: Annotated[int, Field(ge=0)] = 0
    """Whole devices, 0 or more."""


class Serving(Part):
    modes: list[Literal["online", "batch"]] = ["online"]
    """How predictions are asked for."""
    latency_p95: Duration = parse_duration("50ms")
    """What clients may expect of 95 answers in 100."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Servers of a version, at least 1 (one on this machine)."""
    resources: Resources = Resources()


class RolloutLimits(Part):
    errors: Share = 0.01
    """Share of the challenger's answers that may fail, 0 to 1."""
    latency_ratio: Annotated[float, Field(gt=0)] = 1.5
    """Its median latency over the champion's, above 0."""
    auc_drop: Share = 0.01
    """By how much it may be worse on the same requests, 0 to 1."""


class RolloutPlan(Part):
    steps: Annotated[list[Annotated[int, Field(ge=1, le=99)]], Field(min_length=1)] = [10, 50]
    """Per cent of traffic that the challenger answers, step by step; promotion follows the last."""
    hold: Duration = parse_duration("2d")
    """Shortest stay on a step."""
    max_hold: Duration = parse_duration("7d")
    """Longest stay on a step; inconclusive until then is rolled back."""
    min_answers: Annotated[int, Field(ge=1)] = 500
    """Answers of both versions on a step before it is looked at; at least 1."""
    min_labels: Annotated[int, Field(ge=1)] = 2000
    """Labelled requests that both scored before quality is judged; at least 1."""
    limits: RolloutLimits = RolloutLimits()

    @model_validator(mode="after")
    def _in_order(self) -> RolloutPlan:
        rules = []
        if self.steps != sorted(set(self.steps)):
            rules.append(("steps", f"{self.steps} do not rise", "[10, 50]"))
        if self.max_hold < self.hold:
            held, longest = format_duration(self.hold), format_duration(self.max_hold)
            rules.append(("max_hold", f"{longest} is shorter than hold, {held}", f"{held} or longer"))
        if rules:
            raise BrokenRules(rules)
        return self


class PerformanceMonitor(Part):
    metric: Literal["auc"] = "auc"
    window: Duration = parse_duration("7d")
    drop: Share = 0.03
    """A window is bad when its metric lies below the champion's gate value by more than this, interval included."""
    trigger: Fraction = (2, 3)
    """`2 of 3`: bad windows among the last conclusive ones that ask for a retraining."""
    min_labels: Annotated[int, Field(ge=1)] = 500
    max_age: Duration = parse_duration("60d")
    """Older windows do not count towards the trigger."""
    inconclusive_alarm: Annotated[int, Field(ge=1)] = 3
    """Inconclusive windows in a row that raise an alarm of their own."""


class DriftMonitor(Part):
    window: Duration = parse_duration("7d")
    """Event time that is compared with the training data."""
    statistic: Literal["wasserstein", "psi", "jensenshannon"] = "wasserstein"
    """How far apart two samples of a column are."""
    warn_above: Annotated[float, Field(gt=0)] = 0.2
    """Above 0."""
    min_rows: Annotated[int, Field(ge=1)] = 500
    """Windows with fewer rows are inconclusive; at least 1."""


class FreshnessMonitor(Part):
    warn_after: Duration = parse_duration("2h")
    """The oldest that features may be."""


class Monitors(Part):
    performance: PerformanceMonitor = PerformanceMonitor()
    drift: DriftMonitor = DriftMonitor()
    freshness: FreshnessMonitor = FreshnessMonitor()


class Budget(Part):
    runs: Annotated[int, Field(ge=0)]
    """How many."""
    per: Duration
    """Within how long, as in `4 per 90d`."""


def _as_budget(value: object) -> object:
    match = re.fullmatch(r"(\d+) per (\S+)", str(value)) if isinstance(value, str) else None
    if isinstance(value, str) and not match:
        raise ValueError(f"{value!r} is not `N per DURATION`{HINT}4 per 90d")
    return {"runs": int(match[1]), "per": match[2]} if match else value


class Retraining(Part):
    on: list[Literal["performance", "drift"]] = ["performance"]
    """Monitors whose bad windows start one."""
    schedule: Schedule = "none"
    """`none`, or `30d`: retrain this long after the last training even when nothing is bad."""
    cooldown: Duration = parse_duration("14d")
    """Least time between two."""
    budget: Annotated[Budget, BeforeValidator(_as_budget)] = Budget(runs=4, per=parse_duration("90d"))
    """`4 per 90d`: the most that start by themselves."""


class Retention(Part):
    log: Duration = parse_duration("400d")
    """Event time for which the inference log is kept."""
    reports: Duration = parse_duration("400d")
    """Event time for which a monitor's report is kept after the end of its window; its finding stays."""
    bundles: Annotated[int, Field(ge=2)] = 10
    """Versions whose local copies are kept; at least 2, the champion and the one before."""


class Contract(Part):
    """What a team promises about its model and asks of the platform."""

    model: Name
    """The name of its folder below pipelines/."""
    owner: Owner
    """`{team: ..., contact: ...}`."""
    task: Literal["binary_classification"]
    """What kind of answer it gives."""
    description: Text
    """The question that it answers, in one sentence."""
    entity: Entity
    """`{keys: [...], event_time: ...}`: what a prediction is about, and when."""
    request: Annotated[list[RequestField], Field(min_length=1)]
    """What a client sends; the schema of V1 and V2 requests is made from it."""
    features: Features
    """`{service: ...}`: what is joined to a request."""
    label: Label
    """`{name: ..., known_at: ..., longest_delay: 36h}`."""
    training: Training = Training()
    gate: Gate = Gate()
    serving: Serving = Serving()
    rollout: RolloutPlan = RolloutPlan()
    monitors: Monitors = Monitors()
    retraining: Retraining = Retraining()
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _names_belong_together(self) -> Contract:
        kinds = {field.name: field.type for field in self.request}
        hint = f"request fields: {', '.join(kinds)}"
        names = [field.name for field in self.request]
        rules = [
            (f"request.{place}.name", f"`{name}` stands there twice", "one entry for each field")
            for place, name in enumerate(names)
            if name in names[:place]
        ]
        named = {f"entity.keys.{place}": key for place, key in enumerate(self.entity.keys)}
        named |= {"entity.event_time": self.entity.event_time}
        named |= {f"gate.slices.{place}": name for place, name in enumerate(self.gate.slices)}
        rules += [(key, f"`{name}` is no request field", hint) for key, name in named.items() if name not in kinds]
        kind = kinds.get(self.entity.event_time, "timestamp")
        if kind != "timestamp":
            message = f"`{self.entity.event_time}` is a {kind}"
            rules.append(("entity.event_time", message, "name a request field of type timestamp"))
        if rules:
            raise BrokenRules(rules)
        return self


def load_contract(model: str) -> Contract:
    """Read pipelines/<model>/model.yaml. Raises Unknown or InvalidContract."""
    file = MODELS / model / "model.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", model) or not file.is_file():
        raise Unknown("model", model, list_models())
    contract = read_contract(file)
    if contract.model != model:
        raise InvalidContract(Problem("model", f"{contract.model!r} in the folder {model}", f"`model: {model}`"))
    return contract


def read_contract(file: Path) -> Contract:
    """Read a contract file. Raises InvalidContract with every mistake by its dotted key."""
    try:
        return Contract.model_validate(read_document(file))
    except ValidationError as error:
        raise InvalidContract(problems_of(error, Contract)) from error


def list_models() -> list[str]:
    """Names of the onboarded models: the folders below pipelines/ that hold a model.yaml."""
    return sorted(file.parent.name for file in MODELS.glob("*/model.yaml"))
