"""What a process is told by its pod: addresses by variables, secrets as files below one folder.

On a machine of one's own there is no pod, none of the variables is set, and everything lies in the environment's state.
A file is read when it is needed and never kept, so that a secret that was replaced counts without a restart. The
counterpart that mounts all this is `infra/components/platform_pod.py`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import InvalidSettings, NotReady, Problem

if TYPE_CHECKING:
    from slipway.object_path import ObjectPath

SECRETS = "SLIPWAY_SECRETS"
"""The folder below which the pod's secrets are mounted, one folder each; its presence says that there is a pod."""
REGISTRY = "SLIPWAY_REGISTRY"
"""URL of MLflow."""
LISTEN = "SLIPWAY_LISTEN"
"""`address:port` that a serving process binds instead of a unix socket."""

DATABASE = "database"
LOGIN = "registry"
TOKENS = "tokens"
CACHE = "cache"
AUTHORITY = "authority"
"""The certificate of the authority that signed those of the platform's own servers."""
INFERENCE_LOG, FEATURES, SNAPSHOTS, REPORTS = "inference-log", "features", "snapshots", "reports"
PIPELINES = "pipelines"
"""The users of the object store: each has a credential of its own, and a place there that it may use. In the last are
the artifacts of Kubeflow Pipelines, and what steps say of themselves where each has a pod of its own.
"""
IDENTITY = "environment"
"""The folder of the environment file itself; the public signing key lies beside it."""
SIGNING = "signing"


@dataclass(frozen=True)
class Pod:
    """The pod that this process runs in."""

    secrets: Path
    registry_url: str = ""
    listen: tuple[str, int] | None = None

    def read(self, name: str) -> str:
        """A mounted secret, `database/url`. Raises NotReady when this pod is not given it.

        The kubelet writes these files for this pod alone; as links, and readable by its group.
        """
        try:
            return (self.secrets / name).read_text().strip()
        except OSError as error:
            raise NotReady(f"{self.secrets / name}: {error.strerror}", hint="is the Secret mounted?") from error

    def is_given(self, name: str) -> bool:
        """Whether a secret is mounted here."""
        return (self.secrets / name).exists()

    def objects(self, user: str) -> ObjectPath:
        """A user's folder in the object store; the store itself is asked when something is read or written.

        Raises NotReady when this pod is not given the user's credential.
        """
        from slipway.object_path import ObjectPath, open_store

        if user not in self._folders:
            store = open_store(
                self.read(f"{user}/url"),
                region=self.read(f"{user}/AWS_REGION"),
                key_id=self.read(f"{user}/AWS_ACCESS_KEY_ID"),
                key=self.read(f"{user}/AWS_SECRET_ACCESS_KEY"),
                authority=self.read(f"{user}/authority"),
            )
            self._folders[user] = ObjectPath(store, self.read(f"{user}/root").partition("://")[2])
        return self._folders[user]

    @cached_property
    def _folders(self) -> dict[str, ObjectPath]:
        return {}

    def trust(self) -> ssl.SSLContext:
        """For connections to the platform's own servers: believes their authority, and no other.

        Raises NotReady when this pod is not given it.
        """
        return ssl.create_default_context(cadata=self.read(f"{AUTHORITY}/ca.crt"))

    @property
    def database_url(self) -> str:
        """Of the platform's own tables. Whatever driver the Secret names, ours is psycopg."""
        return f"postgresql+psycopg://{self.read(f'{DATABASE}/url').partition('://')[2]}"


def find_pod(variables: Mapping[str, str] = os.environ) -> Pod | None:
    """The pod of this process; None on a machine of one's own. Raises InvalidSettings for an address that is none."""
    folder = variables.get(SECRETS)
    if not folder:
        return None
    return Pod(Path(folder), variables.get(REGISTRY, ""), _address(variables.get(LISTEN, "")))


def _address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidSettings(Problem(LISTEN, f"{text!r} is no address and port", "0.0.0.0:8080"))
    return host.strip("[]"), int(port)
