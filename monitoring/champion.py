"""The version that is watched: its contract, its tenure, its gate record, its training sample and its logged rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from slipway import inference_log
from slipway.bundle import MODEL, fetch_bundle, verify_bundle
from slipway.contract import Contract, load_contract
from slipway.environment import Environment
from slipway.errors import Refused, Unknown
from slipway.ledger import events, versions
from slipway.ledger.schema import ReleaseRow
from slipway.signing import public_key_of
from slipway.snapshots import read_snapshot

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session

    from monitoring.windows import Window


REFERENCE_ROWS = 5000
"""Training rows that stand for all of them: enough for a distance of 0.02, few enough for a second."""


@dataclass
class Champion:
    """A model's champion in one tenure (epoch). Keeps the rows of the window that was asked for last."""

    environment: Environment
    contract: Contract
    version: int
    epoch: int
    since: datetime
    """Event time at which the tenure began."""
    gate: dict[str, Any]
    _window: Window | None = field(default=None, repr=False)
    _rows: pd.DataFrame | None = field(default=None, repr=False)
    _reference: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def model(self) -> str:
        return self.contract.model

    def rows(self, window: Window) -> pd.DataFrame:
        """All log rows of this version in the window, delivered and mirrored ones."""
        if self._rows is None or self._window != window:
            self._rows = inference_log.read_rows(
                self.environment, self.model, window.start, window.end, versions=[self.version]
            )
            self._window = window
        return self._rows

    def reference(self) -> pd.DataFrame | None:
        """A sample of this version's training rows, in the columns of the inference log; None without a snapshot.

        Raises Refused when snapshot, bundle or transforms are not those that the version was made of.
        """
        if self._reference is None and self.gate.get("snapshot_id"):
            self._reference = read_reference(self.environment, self.contract, self.version, self.gate)
        return self._reference

    def forget_rows(self) -> None:
        """Give the memory of the last window back."""
        self._window = self._rows = None


def read_reference(
    environment: Environment, contract: Contract, version: int, gate: dict[str, Any]
) -> pd.DataFrame | None:
    """The training rows of the snapshot that the gate record names, sampled and scored by this version itself."""
    import pandas as pd

    try:
        rows = read_snapshot(environment, gate["snapshot_id"])
    except Unknown:
        return None
    start, end = (pd.Timestamp(gate["training"][name]) for name in ("start", "end"))
    moments = rows["event_timestamp"]
    rows = rows[(moments >= start) & (moments <= end)]
    rows = rows.sample(min(len(rows), REFERENCE_ROWS), random_state=0).sort_index().reset_index(drop=True)
    fields = {field.name: f"in_{field.name}" for field in contract.request}
    features = {str(name): f"ft_{name}" for name in rows.columns if "__" in str(name)}
    reference = rows[[*fields, *features]].rename(columns={**fields, **features})
    reference["prediction"] = _score(environment, contract, version, rows)
    return reference


def _score(environment: Environment, contract: Contract, version: int, rows: pd.DataFrame) -> Any:
    """Scores of the version's verified copy through its own transforms."""
    import lightgbm

    from feature_repo.transforms import find_transforms

    folder = fetch_bundle(environment, contract.model, version)
    manifest = verify_bundle(folder, model=contract.model, version=version, public_key=public_key_of(environment))
    transforms = find_transforms(manifest.feature_service)
    if transforms.hash != manifest.transforms_hash:
        raise Refused(f"{contract.model} {version}: was made with other transforms than there are here")
    booster = lightgbm.Booster(model_file=str(folder / MODEL))
    return booster.predict(transforms.matrix(rows).to_numpy(), num_threads=1)


def read_champion(session: Session, environment: Environment, release: ReleaseRow) -> Champion:
    """The champion of one release row."""
    if release.champion is None:
        raise ValueError(f"{release.model} has no champion")
    version = versions.read(session, release.model, release.champion)
    return Champion(
        environment=environment,
        contract=load_contract(release.model),
        version=version.version,
        epoch=release.epoch,
        since=_tenure_start(session, release) or version.as_of,
        gate=version.gate,
    )


def _tenure_start(session: Session, release: ReleaseRow) -> datetime | None:
    """When the present epoch began, by the event that says so."""
    for kind in ("promoted", "rolled_back"):
        for event in reversed(events.read(session, release.model, kind=kind, limit=20)):
            if event.evidence.get("epoch") == release.epoch:
                return event.as_of
    return None
