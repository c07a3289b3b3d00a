"""The environment file: one TOML, one typed model, unknown keys refused, all mistakes reported at once.

Only what differs from the defaults needs to stand in a file; `platform/environments/example.toml` explains every key.
"""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from slipway.durations import Duration, parse_duration
from slipway.errors import InvalidSettings, Problem, Unknown
from slipway.kubernetes_settings import KubernetesSettings
from slipway.section import ROOT, LocalPath, Section
from slipway.validation import HINT, problems_of

REPOSITORY = ROOT
ENVIRONMENTS = REPOSITORY / "platform" / "environments"

Port = Annotated[int, Field(strict=True, ge=0, le=65535)]


class ClockSettings(Section):
    source: Literal["replay", "utc"] = "replay"
    """Where event time comes from: a replay sets it, or it is UTC now (always on Kubernetes)."""


class GatewaySettings(Section):
    host: str = "127.0.0.1"
    """Address that the gateway binds. Anything but loopback needs both TLS files."""
    port: Port = 0
    """Port of the gateway; 0 takes a free one at the first start and keeps it."""
    tls_certificate: Path | None = None
    """PEM chain served by the gateway."""
    tls_key: Path | None = None
    """PEM private key of `tls_certificate`."""

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value != "localhost":
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ValueError(f"not an IP address{HINT}`127.0.0.1`, or an address of this machine") from None
        return value

    @field_validator("port")
    @classmethod
    def _needs_no_root(cls, value: int) -> int:
        if 0 < value < 1024:
            raise ValueError(f"ports below 1024 belong to root{HINT}0 takes a free one, or name one from 1024 up")
        return value

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @model_validator(mode="after")
    def _other_addresses_need_tls(self) -> GatewaySettings:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError(f"tls_certificate and tls_key go together{HINT}set both, or neither")
        if not self.is_loopback and not self.tls_key:
            raise ValueError(
                f"host {self.host} is not loopback: tokens would cross the network in clear without TLS"
                f'{HINT}set gateway.tls_certificate and gateway.tls_key, or host = "127.0.0.1"'
            )
        return self


class ProcessSettings(Section):
    start_timeout: Duration = parse_duration("120s")
    """Longest wait for one process to become ready; running out of it is a failure."""
    log_size: Annotated[int, Field(strict=True, ge=65536)] = 10_000_000
    """Bytes after which a log file is rotated."""
    log_files: Annotated[int, Field(strict=True, ge=1, le=20)] = 3
    """Rotated log files that are kept for each process."""


class RaySettings(Section):
    cpus: Annotated[int, Field(strict=True, ge=1)] = 2
    """Logical CPUs of the Ray head on this machine."""
    object_store_memory: Annotated[int, Field(strict=True, ge=78_643_200)] = 78_643_200
    """Bytes of Ray's object store; Ray takes no less than the default."""
    start_timeout: Duration = parse_duration("90s")
    """Longest wait for a submitted job to start running."""


class LogSettings(Section):
    flush_interval: Duration = parse_duration("1s")
    """Longest time for which an answered prediction may be only in a server's memory: what a crash can lose."""


class AlertSettings(Section):
    webhook: str = ""
    """URL that alarms are posted to as JSON; empty: alarms stand in the ledger only."""

    @field_validator("webhook")
    @classmethod
    def _is_a_web_address(cls, value: str) -> str:
        if value and not re.match(r"https?://[^/\s]+", value):
            raise ValueError(f"not a URL{HINT}`https://host/path`, or leave it out")
        return value


class Settings(Section):
    """Everything that an environment can set."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    """Name of the environment, in URLs and object names."""
    target: Literal["local", "kubernetes"] = "local"
    """What runs the platform: `local` keeps processes on this machine, `kubernetes` needs the table of that name."""
    state_dir: LocalPath = Path(".slipway/local")
    """Folder of all data, relative to the repository; on Kubernetes `.slipway/<name>` unless set."""
    clock: ClockSettings = ClockSettings()
    gateway: GatewaySettings = GatewaySettings()
    processes: ProcessSettings = ProcessSettings()
    ray: RaySettings = RaySettings()
    log: LogSettings = LogSettings()
    alerts: AlertSettings = AlertSettings()
    kubernetes: KubernetesSettings | None = None
    """The cluster and what stands on it; only with target `kubernetes`."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_cluster(cls, document: Any) -> Any:
        # Two clusters in one folder would share secrets and state; and nobody replays on one.
        if isinstance(document, dict) and document.get("target") == "kubernetes" and "name" in document:
            return {"state_dir": f".slipway/{document['name']}", "clock": {"source": "utc"}} | document
        return document

    @model_validator(mode="after")
    def _target_and_table_go_together(self) -> Settings:
        if self.target == "kubernetes" and self.kubernetes is None:
            raise ValueError(
                f'target "kubernetes" has no [kubernetes] table{HINT}add [kubernetes] with provider = "..."'
            )
        if self.target == "kubernetes" and self.clock.source == "replay":
            # A replay's clock is a file, and pods share none.
            raise ValueError(
                f'clock.source "replay" is for one machine, not for a cluster{HINT}leave [clock] out, or "utc"'
            )
        if self.target == "local" and self.kubernetes is not None:
            raise ValueError(
                f'target "local" with a [kubernetes] table{HINT}target = "kubernetes", or remove the table'
            )
        return self


def environment_file(name: str) -> Path:
    """`local` is platform/environments/local.toml; anything with a slash or `.toml` is a path. Raises Unknown."""
    file = Path(name) if name.endswith(".toml") or "/" in name else ENVIRONMENTS / f"{name}.toml"
    if not file.is_file():
        raise Unknown("environment", name, sorted(path.stem for path in ENVIRONMENTS.glob("*.toml")))
    return file


def load_settings(name: str) -> tuple[Path, Settings]:
    """Read and check an environment file. Raises InvalidSettings with every mistake by its dotted key."""
    file = environment_file(name)
    try:
        text = file.read_text(encoding="utf-8")
        document = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InvalidSettings(Problem(str(file), f"cannot be read: {error.strerror}", f"ls -l {file}")) from error
    except ValueError as error:  # of TOML, of JSON, or of a text that is not UTF-8
        raise InvalidSettings(
            Problem(str(file), f"not TOML: {error}", "see platform/environments/example.toml")
        ) from error
    try:
        return file, Settings.model_validate(document)
    except ValidationError as error:
        raise InvalidSettings(problems_of(error, Settings)) from error
