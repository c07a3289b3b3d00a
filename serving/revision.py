"""A version that is ready to answer: its verified bundle, its booster and its transforms, proven by golden requests.

The only thing that is loaded is LightGBM's text format, from the private copy whose signature was checked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.transforms import FieldKind, Transforms, find_transforms
from slipway.bundle import MODEL, Manifest, fetch_bundle, verify_bundle
from slipway.contract import Contract, load_contract
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady, Refused
from slipway.request_schema import RequestSchema
from slipway.signing import public_key_of

if TYPE_CHECKING:
    from lightgbm import Booster

REGISTRY_SECONDS, _PAUSE = 60.0, 1.0
"""Longest wait for the registry, and between two attempts."""

_DTYPES: dict[FieldKind, np.dtype[Any]] = {
    "string": np.dtype(object),
    "number": np.dtype(np.float64),
    "timestamp": np.dtype("datetime64[us]"),
}


@dataclass(frozen=True)
class Revision:
    """One version, loaded."""

    contract: Contract
    manifest: Manifest
    transforms: Transforms
    booster: Booster
    schema: RequestSchema

    @cached_property
    def feature_names(self) -> list[str]:
        """`view__feature`, in the order in which feature values are passed."""
        return list(self.transforms.defaults)

    def transform(self, columns: dict[str, Any], features: np.ndarray) -> np.ndarray:
        """The matrix (rows x columns, float64) of request columns and features (rows x feature_names, NaN unknown)."""
        values = {name: _as_array(columns[name], kind) for name, kind in self.transforms.request.items()}
        values |= zip(self.feature_names, features.T, strict=True)
        return self.transforms.compute(values, len(features))

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """One probability per row. A single thread: the machine's cores belong to many servers."""
        scores: np.ndarray = self.booster.predict(matrix, num_threads=1)
        return scores


def _as_array(values: list[Any] | np.ndarray, kind: FieldKind) -> np.ndarray:
    """A column of a request as the transforms take it."""
    return np.asarray(values, dtype=_DTYPES[kind])


def _fetch(environment: Environment, model: str, version: int) -> Path:
    """The verified bundle. A registry that is starting too, as after a kill of everything, is waited for here: ending
    would cost seconds of imports each time and look like a server that cannot start."""
    deadline = time.monotonic() + REGISTRY_SECONDS
    while True:
        try:
            return fetch_bundle(environment, model, version)
        except NotReady:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


def load_revision(environment: Environment, model: str, version: int) -> Revision:
    """Fetch, verify and load a version, then answer its golden requests.

    Works without the registry once a verified copy is kept. Raises Refused when a rule is broken, Unknown for a model
    or feature service that this code does not have, NotReady when the registry is needed and does not answer.
    """
    contract = load_contract(model)
    folder = _fetch(environment, model, version)
    manifest = verify_bundle(folder, model=model, version=version, public_key=public_key_of(environment))
    transforms = find_transforms(manifest.feature_service)
    if transforms.hash != manifest.transforms_hash:
        raise Refused(
            f"{model} {version} was made with other transforms of {manifest.feature_service} than this code has",
            hint="serve it with the code it was made with, or train again",
        )
    import lightgbm

    try:
        booster = lightgbm.Booster(model_str=(folder / MODEL).read_text())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        raise Refused(f"{model} {version}: {MODEL} cannot be read: {error}") from error
    if not booster.feature_name() == manifest.columns == list(transforms.columns):
        raise Refused(f"{model} {version}: the columns of model, manifest and transforms are not the same")
    revision = Revision(contract, manifest, transforms, booster, RequestSchema(contract))
    _answer_golden(revision)
    return revision


def _answer_golden(revision: Revision) -> None:
    """Raises Refused when an answer differs from the one that the version was judged by."""
    golden, name = revision.manifest.golden, f"{revision.manifest.model} {revision.manifest.version}"
    if not golden.requests or not len(golden.requests) == len(golden.features) == len(golden.answers):
        raise Refused(f"{name}: the golden requests are missing or incomplete")
    try:
        request = revision.schema.read_v1({"instances": golden.requests})
    except InvalidInput as error:
        raise Refused(f"{name}: a golden request breaks the contract: {error}") from error
    features = [[row.get(column) for column in revision.feature_names] for row in golden.features]
    matrix = revision.transform(request.columns, np.array(features, dtype=np.float64))
    answers = revision.score(matrix)
    off = np.abs(answers - np.array(golden.answers))
    if not np.all(off <= golden.tolerance):
        worst = int(np.nanargmax(np.where(np.isnan(off), np.inf, off)))
        raise Refused(
            f"{name}: golden request {worst} is answered {answers[worst]!r}, not {golden.answers[worst]!r}",
            hint="this machine computes otherwise than the one that judged the version",
        )
