"""The training pipeline: snapshot, validate, train, evaluate, gate, register.

One definition for both targets: `pipelines.graph` runs it with `kfp.local`, `slipway pipeline compile` writes it as
YAML for a cluster. The components are thin; each step is a module of `pipelines.steps`. There is no condition in the
graph: `kfp.local` would skip one with only a warning, so what is refused is refused inside a step.

`run` is the run as `pipelines.task.Run` writes it. Annotations stay objects here (no future import): KFP reads them.
"""

from typing import Any

from kfp import dsl

IMAGE = "slipway-python:0.1.0"
"""The container of every step in a cluster: this repository, installed from its lock."""


def component(function: Any) -> Any:
    """A component that installs nothing: its image, or this environment, has everything."""
    return dsl.component(base_image=IMAGE, install_kfp_package=False)(function)


@component
def snapshot(environment: str, run: dict[str, Any], rows: dsl.Output[dsl.Dataset]) -> None:
    """Entities and their features as of the run's moment."""
    from pipelines.execution import perform

    rows.metadata.update(perform("snapshot", environment, run, {}, {"rows": rows.path}))


@component
def validate(
    environment: str,
    run: dict[str, Any],
    rows: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Stops the run when the data cannot be right."""
    from pipelines.execution import perform

    perform("validate", environment, run, {"rows": rows.path}, {"report": report.path})


@component
def train(
    environment: str,
    run: dict[str, Any],
    rows: dsl.Input[dsl.Dataset],
    report: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    training: dsl.Output[dsl.Artifact],
) -> None:
    """A booster, trained on Ray."""
    from pipelines.execution import perform

    outputs = {"model": model.path, "training": training.path}
    perform("train", environment, run, {"rows": rows.path}, outputs)


@component
def evaluate(
    environment: str,
    run: dict[str, Any],
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    scores: dsl.Output[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
) -> None:
    """Scores of challenger, champion and baseline on the judged window."""
    from pipelines.execution import perform

    outputs = {"scores": scores.path, "evaluation": evaluation.path}
    perform("evaluate", environment, run, {"rows": rows.path, "model": model.path}, outputs)


@component
def gate(
    environment: str,
    run: dict[str, Any],
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    training: dsl.Input[dsl.Artifact],
    scores: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """The verdict, with every number behind it."""
    from pipelines.execution import perform

    inputs = {"rows": rows, "model": model, "training": training, "scores": scores, "evaluation": evaluation}
    perform("gate", environment, run, {name: item.path for name, item in inputs.items()}, {"record": record.path})


@component
def register(
    environment: str,
    run: dict[str, Any],
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    training: dsl.Input[dsl.Artifact],
    record: dsl.Input[dsl.Artifact],
    version: dsl.Output[dsl.Artifact],
) -> int:
    """A signed bundle as a version of the registry; returns its number."""
    from pipelines.execution import perform

    inputs = {"rows": rows, "model": model, "training": training, "record": record}
    paths = {name: item.path for name, item in inputs.items()}
    return int(perform("register", environment, run, paths, {"version": version.path})["version"])


@dsl.pipeline(  # type: ignore[untyped-decorator]
    name="training", description="From published events to a gated, signed version."
)
def training(environment: str, run: dict[str, Any]) -> int:
    taken = snapshot(environment=environment, run=run)
    rows = taken.outputs["rows"]
    checked = validate(environment=environment, run=run, rows=rows)
    fitted = train(environment=environment, run=run, rows=rows, report=checked.outputs["report"])
    model, facts = fitted.outputs["model"], fitted.outputs["training"]
    scored = evaluate(environment=environment, run=run, rows=rows, model=model)
    judged = gate(
        environment=environment,
        run=run,
        rows=rows,
        model=model,
        training=facts,
        scores=scored.outputs["scores"],
        evaluation=scored.outputs["evaluation"],
    )
    registered = register(
        environment=environment, run=run, rows=rows, model=model, training=facts, record=judged.outputs["record"]
    )
    for task in (taken, checked, fitted, scored, judged, registered):
        # The steps have a cache of their own, keyed by content; KFP's is keyed by arguments and would miss new data.
        task.set_caching_options(False)
    return registered.outputs["Output"]  # type: ignore[no-any-return]
