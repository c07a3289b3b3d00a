"""From request fields and joined features to the model's matrix: the one place, used by training and by serving.

A service's transform is code; its hash covers that code, the views and the defaults. A bundle names the hash, and a
server that does not have it refuses the bundle. Nothing here imports Feast.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Literal

import numpy as np
import pandas as pd

from feature_repo.view import View
from slipway.errors import InvalidInput, Problem, Unknown

DOMAINS = ("flights",)
"""Folders of feature_repo; each has a `transforms` module with `TRANSFORMS`."""

Columns = Mapping[str, np.ndarray]
Transform = Callable[[Columns], dict[str, np.ndarray]]
FieldKind = Literal["string", "number", "timestamp"]


@dataclass(frozen=True)
class Transforms:
    """The transform of one feature service."""

    service: str
    members: tuple[View, ...]
    request: Mapping[str, FieldKind]
    """Request fields that the transform reads, all of them required, and their kinds."""
    categorical: tuple[str, ...]
    """Matrix columns that hold codes, -1 for a value never heard of."""
    columns: tuple[str, ...]
    function: Transform
    modules: tuple[ModuleType, ...]
    """Modules whose code makes the matrix; the hash covers them."""

    @property
    def views(self) -> dict[str, list[str]]:
        """View name to the names of its features."""
        return {view.name: view.columns for view in self.members}

    @property
    def entity_of(self) -> dict[str, list[str]]:
        """View name to the request fields that are its keys."""
        return {view.name: list(view.keys) for view in self.members}

    @cached_property
    def defaults(self) -> dict[str, float]:
        """`view__feature` to the value that stands in for an unknown one."""
        return {f"{view.name}__{f.name}": f.default for view in self.members for f in view.features}

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the code (comments, docstrings and layout do not count), views, keys, lifetimes and defaults."""
        description = {
            "service": self.service,
            "request": dict(self.request),
            "categorical": self.categorical,
            "columns": self.columns,
            "views": [
                [v.name, v.keys, v.lifetime.total_seconds(), [[f.name, f.kind, f.default] for f in v.features]]
                for v in self.members
            ],
            "code": [_code_of(module) for module in self.modules],
        }
        return hashlib.sha256(json.dumps(description).encode()).hexdigest()

    def matrix(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The model's matrix, float64, one row for each of `rows`, columns in the order of `columns`.

        `rows` holds the request fields and `view__feature` columns; a feature that is missing, null or absent as a
        column takes its default. Raises InvalidInput for a missing request field.
        """
        absent = [name for name in self.request if name not in rows.columns]
        if absent:
            raise InvalidInput([Problem(f"request.{name}", "is missing", "add it") for name in absent])
        values = {name: _field(rows[name], kind) for name, kind in self.request.items()}
        for name in self.defaults:
            if name in rows.columns:
                values[name] = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.DataFrame(self.compute(values, len(rows)), columns=list(self.columns), index=rows.index)

    def compute(self, values: Columns, length: int) -> np.ndarray:
        """The same matrix from arrays of one length: texts as objects, numbers as float64, moments as datetime64, UTC.

        For a server, to which one row in pandas costs more than its prediction. NaN and absent features take their
        defaults; request fields are not checked.
        """
        filled = {name: values[name] for name in self.request}
        for name, default in self.defaults.items():
            given = values.get(name)
            if given is None:
                given = np.full(length, np.nan)
            filled[name] = np.where(np.isnan(given), default, given)
        made = self.function(filled)
        matrix = np.column_stack([made[name] for name in self.columns]) if length else np.empty((0, len(made)))
        return matrix.astype(np.float64, copy=False)


def _field(values: pd.Series, kind: FieldKind) -> np.ndarray:
    """Strings as objects, numbers as float64, timestamps as datetime64 in UTC (text is read as RFC 3339)."""
    if kind == "number":
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if kind == "timestamp":
        return pd.DatetimeIndex(pd.to_datetime(values, utc=True)).tz_localize(None).to_numpy()
    return values.to_numpy(dtype=object)


@cache
def find_transforms(service: str) -> Transforms:
    """The transforms of the named feature service. Raises Unknown."""
    known: dict[str, Transforms] = {}
    for domain in DOMAINS:
        known |= importlib.import_module(f"feature_repo.{domain}.transforms").TRANSFORMS
    if service not in known:
        raise Unknown("features.service", service, sorted(known))
    return known[service]


def _code_of(module: ModuleType) -> str:
    """The module's code without comments, texts that only document, and layout."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
