"""Where an environment keeps its data: the one place that spells the names of folders and files.

Nothing is created here but by `prepare`; every folder that holds a secret or a socket is 0700.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class State:
    """The folder of one environment on this machine (`.slipway/local` by default)."""

    root: Path

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.root / 'ledger.db'}"

    @property
    def labels_url(self) -> str:
        return f"sqlite:///{self.root / 'labels.db'}"

    @property
    def clock_file(self) -> Path:
        """Event time as set by a replay: one RFC 3339 line, replaced by rename."""
        return self.root / "clock"

    @property
    def secrets(self) -> Path:
        """Tokens (`tokens/<role>`), the signing key pair, Ray's token: files 0600 in folders 0700."""
        return self.root / "secrets"

    @property
    def run(self) -> Path:
        """What describes the running processes: ports.json, supervisord.conf, envoy/."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def registry(self) -> Path:
        """MLflow: mlflow.db and artifacts/."""
        return self.root / "registry"

    @property
    def features(self) -> Path:
        """Feast: feature_store.yaml, registry.db, online.db and offline/<view>/*.parquet."""
        return self.root / "features"

    @property
    def events(self) -> Path:
        """What the outside world has published (raw events), by data domain: events/flights/*.parquet."""
        return self.root / "events"

    @property
    def spool(self) -> Path:
        """What servers have buffered and the collector has not yet taken: spool/<revision>/*.arrow."""
        return self.root / "spool"

    @property
    def inference_log(self) -> Path:
        """Parquet: inference_log/model=<name>/date=<event date>/*.parquet."""
        return self.root / "inference_log"

    @property
    def bundles(self) -> Path:
        """Private copies of verified bundles: bundles/<model>/<version>/."""
        return self.root / "bundles"

    @property
    def pipelines(self) -> Path:
        """Pipeline runs and the content-keyed step cache: pipelines/runs/<run>/, pipelines/cache/<key>/."""
        return self.root / "pipelines"

    @property
    def reports(self) -> Path:
        """The Evidently workspace."""
        return self.root / "reports"

    @property
    def sockets(self) -> Path:
        """Unix sockets, in a short path of our own (the kernel allows 107 characters), 0700."""
        name = hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"slipway-{os.getuid()}-{name}"

    def prepare(self) -> None:
        """Create the folders, private to this user. Raises PermissionError if somebody else owns the socket folder."""
        folders = (
            self.root, self.secrets, self.secrets / "tokens", self.run, self.logs, self.registry, self.features,
            self.events, self.spool, self.inference_log, self.bundles, self.pipelines, self.reports, self.sockets,
        )  # fmt: skip
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.sockets.stat().st_uid != os.getuid():
            raise PermissionError(f"{self.sockets} belongs to another user")
        for folder in (self.root, self.secrets, self.secrets / "tokens", self.sockets):
            folder.chmod(0o700)
