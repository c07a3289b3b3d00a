"""What a step is given: the environment, the run, the contract, and the paths of its input and output files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from slipway.contract import Contract, load_contract, read_contract
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidContract, InvalidInput, Problem

Values = dict[str, Any]
"""Small facts that a step returns: plain JSON."""


class BadSnapshot(InvalidInput):
    """The data break the contract or the model's own checks; carries every problem, with its column."""


@dataclass(frozen=True)
class Run:
    """One pipeline run as the ledger asked for it. `champion` is the version that a new one is judged against."""

    id: int
    key: str
    model: str
    as_of: datetime
    champion: int | None
    options: Mapping[str, Any]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Run:
        return cls(
            id=int(document["id"]),
            key=str(document["key"]),
            model=str(document["model"]),
            as_of=datetime.fromisoformat(document["as_of"]),
            champion=int(document["champion"]) if document.get("champion") else None,
            options=dict(document.get("options") or {}),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "key": self.key,
            "model": self.model,
            "as_of": self.as_of.isoformat(),
            "champion": self.champion or 0,
            "options": dict(self.options),
        }


@dataclass(frozen=True)
class Task:
    """One step of one run."""

    step: str
    environment: Environment
    run: Run
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Task:
        return cls(
            step=document["step"],
            environment=open_environment(document["environment"]),
            run=Run.from_json(document["run"]),
            inputs={name: Path(path) for name, path in document["inputs"].items()},
            outputs={name: Path(path) for name, path in document["outputs"].items()},
        )

    @cached_property
    def contract(self) -> Contract:
        """The model's contract, or the one that the run's options name. Raises InvalidContract."""
        other = self.run.options.get("contract")
        if not other:
            return load_contract(self.run.model)
        file = Path(str(other))
        if not file.is_file():
            raise InvalidContract(Problem("options.contract", f"{file}: there is no such file"))
        contract = read_contract(file)
        if contract.model != self.run.model:
            raise InvalidContract(Problem("model", f"{contract.model}: the run is for {self.run.model}"))
        return contract

    def write_json(self, output: str, value: object) -> None:
        """Write an output file as JSON; numbers must be finite."""
        self.outputs[output].write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Read an input file as JSON."""
        return json.loads(self.inputs[name].read_text())
