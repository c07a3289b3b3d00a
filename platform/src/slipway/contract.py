"""The contract of a model: its `model.yaml`, typed, unknown keys refused, all mistakes reported at once.

Durations are of event time, except process time-outs (`training.deadline`, `serving.latency_p95`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from slipway.durations import Duration, parse_duration
from slipway.errors import InvalidContract, Problem, Unknown
from slipway.settings import REPOSITORY
from slipway.validation import problems_of

MODELS = REPOSITORY / "pipelines"


class _Loader(yaml.SafeLoader):
    """YAML with the booleans of version 1.2: in 1.1 the key `on` would be read as true."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Owner(Part):
    team: str
    contact: str


class Entity(Part):
    keys: Annotated[list[Name], Field(min_length=1)]
    """Request fields that together name the thing predicted."""
    event_time: Name
    """Request field: the moment (UTC, RFC 3339) that the prediction is about."""


class RequestField(Part):
    name: Name
    type: Literal["string", "int", "float", "bool", "timestamp"]
    range: tuple[float, float] | None = None
    """Plausible limits, both included; numbers outside are refused."""
    missing: Literal["reject", "allow"] = "reject"


class Features(Part):
    service: Name
    """A versioned Feast feature service; its transforms carry the same name."""
    on_missing: Literal["default", "reject"] = "default"
    timeout: Duration = parse_duration("50ms")
    """Longest look-up; after it the defaults are used and counted."""


class Label(Part):
    name: Name
    known_at: str
    """In words: when a label becomes known."""
    longest_delay: Duration
    """After event time plus this, a missing label counts as missing and a cohort is due."""


class Training(Part):
    engine: Literal["ray"] = "ray"
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    library: Literal["lightgbm"] = "lightgbm"
    parameters: dict[str, Any] = {}
    rounds: Annotated[int, Field(ge=1)] = 250
    window: str = Field(default="expanding", pattern=r"^(expanding|\d+d)$")
    """`expanding` takes all history; `90d` the last ninety days."""
    min_rows: Annotated[int, Field(ge=1)] = 1000
    deadline: Duration = parse_duration("10m")
    """Process time-out of the training job."""
    seed: int = 1


class Floors(Part):
    auc: Share = 0.5
    calibration_error: Share = 1.0
    """The largest expected calibration error allowed."""


class Gate(Part):
    metric: Literal["auc"] = "auc"
    rule: Literal["not_worse", "better"] = "not_worse"
    margin: Share = 0.005
    """not_worse: the interval's low end must lie above -margin; better: above +margin."""
    floors: Floors = Floors()
    window: Duration = parse_duration("14d")
    slices: list[Name] = []
    slice_drop: Share = 0.05
    """Largest drop of the metric in any slice that is large enough to judge."""
    latency_ratio: Annotated[float, Field(gt=0)] = 3.0
    """Challenger's median scoring time over the champion's."""
    max_bytes: Annotated[int, Field(ge=1)] = 100_000_000


class Resources(Part):
    cpu: float = 1
    memory: str = "1Gi"
    gpu: Annotated[int, Field(ge=0)] = 0


class Serving(Part):
    modes: list[Literal["online", "batch"]] = ["online"]
    latency_p95: Duration = parse_duration("50ms")
    replicas: Annotated[int, Field(ge=1)] = 1
    resources: Resources = Resources()


class RolloutLimits(Part):
    errors: Share = 0.01
    latency_ratio: Annotated[float, Field(gt=0)] = 1.5
    auc_drop: Share = 0.01


class RolloutPlan(Part):
    steps: Annotated[list[Annotated[int, Field(ge=1, le=99)]], Field(min_length=1)] = [10, 50]
    """Per cent of traffic that the challenger answers, step by step; promotion follows the last."""
    hold: Duration = parse_duration("2d")
    """Shortest stay on a step."""
    max_hold: Duration = parse_duration("7d")
    """Longest stay on a step; inconclusive until then is rolled back."""
    min_answers: Annotated[int, Field(ge=1)] = 500
    min_labels: Annotated[int, Field(ge=1)] = 2000
    limits: RolloutLimits = RolloutLimits()

    @model_validator(mode="after")
    def _in_order(self) -> RolloutPlan:
        if self.steps != sorted(set(self.steps)):
            raise ValueError("steps must rise")
        if self.max_hold < self.hold:
            raise ValueError("max_hold is shorter than hold")
        return self


def _as_fraction(value: object) -> tuple[int, int]:
    """Read `2 of 3`."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return (int(value[0]), int(value[1]))
    match = re.fullmatch(r"(\d+) of (\d+)", str(value))
    if not match or not 0 < int(match[1]) <= int(match[2]):
        raise ValueError(f"{value!r} is not `N of M` with 0 < N <= M")
    return int(match[1]), int(match[2])


Fraction = Annotated[
    tuple[int, int], BeforeValidator(_as_fraction), PlainSerializer(lambda v: f"{v[0]} of {v[1]}", when_used="json")
]


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
    statistic: Literal["wasserstein", "psi", "jensenshannon"] = "wasserstein"
    warn_above: Annotated[float, Field(gt=0)] = 0.2
    min_rows: Annotated[int, Field(ge=1)] = 500


class FreshnessMonitor(Part):
    warn_after: Duration = parse_duration("2h")


class Monitors(Part):
    performance: PerformanceMonitor = PerformanceMonitor()
    drift: DriftMonitor = DriftMonitor()
    freshness: FreshnessMonitor = FreshnessMonitor()


class Budget(Part):
    runs: Annotated[int, Field(ge=0)]
    per: Duration


def _as_budget(value: object) -> object:
    match = re.fullmatch(r"(\d+) per (\S+)", str(value)) if isinstance(value, str) else None
    if isinstance(value, str) and not match:
        raise ValueError(f"{value!r} is not `N per DURATION` (4 per 90d)")
    return {"runs": int(match[1]), "per": match[2]} if match else value


class Retraining(Part):
    on: list[Literal["performance", "drift"]] = ["performance"]
    schedule: Literal["none"] | Duration = "none"
    """`30d`: retrain this long after the last training even when nothing is bad."""
    cooldown: Duration = parse_duration("14d")
    budget: Annotated[Budget, BeforeValidator(_as_budget)] = Budget(runs=4, per=parse_duration("90d"))


class Retention(Part):
    log: Duration = parse_duration("400d")
    bundles: Annotated[int, Field(ge=2)] = 10


class Contract(Part):
    """What a team promises about its model and asks of the platform."""

    model: Name
    owner: Owner
    task: Literal["binary_classification"]
    description: str
    entity: Entity
    request: Annotated[list[RequestField], Field(min_length=1)]
    """What a client sends; the schema of V1 and V2 requests is made from it."""
    features: Features
    label: Label
    training: Training = Training()
    gate: Gate = Gate()
    serving: Serving = Serving()
    rollout: RolloutPlan = RolloutPlan()
    monitors: Monitors = Monitors()
    retraining: Retraining = Retraining()
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _names_belong_together(self) -> Contract:
        names = [field.name for field in self.request]
        wrong = [f"request names `{name}` twice" for name in sorted({n for n in names if names.count(n) > 1})]
        wrong += [
            f"entity names `{name}`, which is no request field"
            for name in [*self.entity.keys, self.entity.event_time]
            if name not in names
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def load_contract(model: str) -> Contract:
    """Read pipelines/<model>/model.yaml. Raises Unknown or InvalidContract."""
    file = MODELS / model / "model.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", model) or not file.is_file():
        raise Unknown("model", model, list_models())
    return read_contract(file)


def read_contract(file: Path) -> Contract:
    """Read a contract file. Raises InvalidContract with every mistake by its dotted key."""
    try:
        document = yaml.load(file.read_text(), _Loader)  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        raise InvalidContract(Problem(str(file), f"not YAML: {error}")) from error
    try:
        return Contract.model_validate(document)
    except ValidationError as error:
        raise InvalidContract(problems_of(error, Contract)) from error


def list_models() -> list[str]:
    """Names of the onboarded models: the folders below pipelines/ that hold a model.yaml."""
    return sorted(file.parent.name for file in MODELS.glob("*/model.yaml"))
