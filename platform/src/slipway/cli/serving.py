"""Commands for predictions and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slipway.cli.operator import open_platform
from slipway.cli.output import Json, print_facts, print_json
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, NotReady, Problem, SlipwayError

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
_SHOWN = 50


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("predict")(predict)
    app.command("label")(label)


def predict(
    model: Model,
    file: Annotated[Path, typer.Option("--file", help="A V1 or V2 request as JSON.")],
    as_json: Json = False,
) -> None:
    """Ask the released version, through the gateway; the request is checked before it is sent."""
    from slipway.contract import load_contract
    from slipway.request_schema import RequestSchema

    contract = load_contract(model)
    document = _read_json(file)
    RequestSchema(contract).read(document)
    path = f"/v1/models/{model}:predict" if "instances" in document else f"/v2/models/{model}/infer"
    answer, version = _ask(open_environment(), path, document)
    if as_json:
        print_json(answer | {"version": version})
        return
    if "predictions" in answer:
        scores, ids = answer["predictions"], answer["prediction_ids"]
    else:
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        scores, ids = outputs["prediction"], outputs["prediction_id"]
    rows = [
        {"prediction": score, "prediction_id": identifier, "version": version}
        for score, identifier in zip(scores, ids, strict=True)
    ]
    print_facts(f"{model}", rows, False)


def label(
    model: Model,
    file: Annotated[Path, typer.Option("--file", help="labels.csv or labels.jsonl.")],
    as_json: Json = False,
) -> None:
    """Add labels from a file: prediction_id, value (0 or 1), known_at, and correction where one was wrong.

    Lines that are in order count even when others are not; those are listed, and the exit code is 2.
    """
    from slipway.contract import load_contract
    from slipway.label_file import read_labels
    from slipway.labels import MAX_BATCH, LabelStore

    load_contract(model)
    environment = open_platform()
    as_of = environment.clock.as_of()
    found = read_labels(file, model)
    problems = list(found.problems)
    counts = {"accepted": 0, "repeated": 0, "pending": 0, "late": 0}
    store = LabelStore(environment)
    for start in range(0, len(found.labels), MAX_BATCH):
        part = slice(start, start + MAX_BATCH)
        outcome = store.add(found.labels[part], as_of=as_of, source=f"file {file.name}", names=found.names[part])
        problems += outcome.problems
        counts = {name: count + getattr(outcome, name) for name, count in counts.items()}
    facts = {"model": model, **counts, "refused": len({p.where.rpartition(".")[0] for p in problems})}
    if as_json:
        print_json(facts | {"problems": [vars(problem) for problem in problems]})
    else:
        print_facts("labels", [facts], False)
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(Problem("labels", f"{len(problems) - _SHOWN} more mistakes", "mend these first"))
        raise InvalidInput(shown)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except OSError as error:
        raise InvalidInput(Problem("file", f"{file} cannot be read: {error.strerror}")) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(Problem("request", f"is not JSON: {error}", "send one JSON object")) from error
    if not isinstance(document, dict):
        raise InvalidInput(Problem("request", "is not a JSON object", 'V1: {"instances": [...]}'))
    return document


def _ask(environment: Environment, path: str, document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The answer and the version that gave it."""
    from slipway.gateway_client import ask

    response = ask(environment, "predict", path, document)
    if response.status_code == 200:
        return response.json(), int(response.headers["x-model-version"])
    try:
        body = response.json()
    except ValueError:
        body = {}
    problems = body.get("problems") if isinstance(body, dict) else None
    if problems:
        raise InvalidInput([Problem(**problem) for problem in problems])
    if response.status_code == 404:
        raise NotReady("no version of this model is released", hint="slipway releases shows its versions")
    said = body.get("error", "") if isinstance(body, dict) else ""
    raise SlipwayError(f"the gateway answered {response.status_code}: {said or response.text[:200]}")
