"""Where an environment keeps its data: the one place that spells the names of folders and files.

In a pod the tables are in its database, what others read is in the object store, secrets are where they are mounted,
and the folder is scratch space.

Nothing is created here but by `prepare`; every folder that holds a secret or a socket is 0700.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from slipway import pod as pods
from slipway.object_path import AnyPath
from slipway.pod import Pod


@dataclass(frozen=True)
class State:
    """The folder of one environment on this machine (`.slipway/local` by default)."""

    root: Path
    pod: Pod | None = None

    @property
    def ledger_url(self) -> str:
        return self.pod.database_url if self.pod else f"sqlite:///{self.root / 'ledger.db'}"

    @property
    def labels_url(self) -> str:
        return self.pod.database_url if self.pod else f"sqlite:///{self.root / 'labels.db'}"

    @property
    def sessions_file(self) -> Path | None:
        """SQLite, beside the tokens; None where browsers' sessions are tables of the platform's database."""
        return None if self.pod else self.secrets / "sessions.db"

    @property
    def sessions_url(self) -> str:
        return self.pod.database_url if self.pod else f"sqlite:///{self.sessions_file}"

    @property
    def clock_file(self) -> Path:
        """Event time as set by a replay: one RFC 3339 line, replaced by rename."""
        return self.root / "clock"

    @property
    def secrets(self) -> Path:
        """Tokens, the signing key pair, Ray's token, browsers' sessions: files 0600 in folders 0700."""
        return self.root / "secrets"

    @property
    def tokens(self) -> Path:
        """One file for each role."""
        return self.pod.secrets / pods.TOKENS if self.pod else self.secrets / "tokens"

    @property
    def signing_key(self) -> Path:
        """PEM, private; not there where nothing is signed."""
        return (self.pod.secrets / pods.SIGNING if self.pod else self.secrets) / "signing.key"

    @property
    def signing_public(self) -> Path:
        """PEM; what bundles are verified with."""
        return (self.pod.secrets / pods.IDENTITY if self.pod else self.secrets) / "signing.pub"

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
        """Feast's own: registry.db, online.db."""
        return self.root / "features"

    @property
    def history(self) -> AnyPath:
        """Published features: offline/<view>/*.parquet, and quarantine/<view>/ for rows of the future."""
        return self.pod.objects(pods.FEATURES) if self.pod else self.features

    @property
    def events(self) -> AnyPath:
        """What the outside world has published (raw events), by data domain: events/flights/*.parquet."""
        return (self.pod.objects(pods.FEATURES) if self.pod else self.root) / "events"

    @property
    def replay(self) -> Path:
        """What a replay notes of itself, beside what it published; only a machine of one's own is replayed to."""
        return self.root / "events" / "flights"

    @property
    def spool(self) -> AnyPath:
        """What servers have buffered and the collector has not yet taken: spool/<revision>/*.arrow."""
        return (self.pod.objects(pods.INFERENCE_LOG) if self.pod else self.root) / "spool"

    @property
    def inference_log(self) -> AnyPath:
        """Parquet: inference_log/model=<name>/date=<event date>/*.parquet."""
        return (self.pod.objects(pods.INFERENCE_LOG) if self.pod else self.root) / "inference_log"

    @property
    def bundles(self) -> Path:
        """Private copies of verified bundles: bundles/<model>/<version>/."""
        return self.root / "bundles"

    @property
    def pipelines(self) -> Path:
        """Pipeline runs and the content-keyed step cache: pipelines/runs/<run>-<attempt>/, pipelines/cache/<key>/."""
        return self.root / "pipelines"

    @property
    def snapshots(self) -> AnyPath:
        """The rows that training runs saw: <sha256>.parquet."""
        return self.pod.objects(pods.SNAPSHOTS) if self.pod else self.pipelines / "snapshots"

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
            self.root / "events", self.root / "spool", self.root / "inference_log", self.bundles, self.pipelines,
            self.reports, self.sockets,
        )  # fmt: skip
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.sockets.stat().st_uid != os.getuid():
            raise PermissionError(f"{self.sockets} belongs to another user")
        for folder in (self.root, self.secrets, self.secrets / "tokens", self.sockets):
            folder.chmod(0o700)
