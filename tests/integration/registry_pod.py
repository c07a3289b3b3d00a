"""MLflow as its pod runs it: tables in PostgreSQL, files in an S3 server, asked by TLS and asking by it.

Its login is left out: what that needs comes with its image and is not in the platform's lock.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.components import database, names, object_store
from infra.components.cert_manager import AUTHORITY_FILE
from infra.components.registry import PORT
from infra.components.workload import CERTIFICATE
from infra.recording import Recording
from tests.cluster.lab.certificates import Authority
from tests.declared_pod import DeclaredPod
from tests.s3_server import BUCKET, S3Server

READY_WITHIN = 180.0
NAME = "registry"
DECLARED = f"https://{names.service(NAME, names.SYSTEM)}:{PORT}"
"""Where the program's pods are told that it is."""


@dataclass(frozen=True)
class RegistryPod:
    """The running server, and who signed its certificate."""

    pod: DeclaredPod
    authority: Authority

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.pod.port}"


@contextmanager
def registry_pod(folder: Path, stack: Recording, database_url: str, objects: S3Server) -> Iterator[RegistryPod]:
    # Another name than the object store's: whoever trusts both finds the right one by it.
    authority = Authority(folder / "pki", "registry-authority")
    pair = authority.sign(NAME, hosts=["127.0.0.1"])
    tables = database_url.replace("+psycopg2", "+psycopg")

    def read_secret(name: str) -> Mapping[str, str]:
        data: dict[str, str] = dict(stack.find(f"Secret/{names.SYSTEM}/{name}").inputs["data"])
        if name == database.REGISTRY.secret:
            data["url"] = base64.b64encode(tables.encode()).decode()
        return data

    elsewhere = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--app-name=basic-auth": "--workers=1",
        f"https://{names.service('object-store', names.DATA)}:{object_store.PORT}": objects.url,
        f"s3://{object_store.REGISTRY.name}": f"s3://{BUCKET}/mlflow",
        # Paths behind something else.
        f"={CERTIFICATE}": f"={folder}{CERTIFICATE}",
        f"= {AUTHORITY_FILE}": f"= {folder}{AUTHORITY_FILE}",
    }
    pod = DeclaredPod(
        folder,
        stack.find(f"Deployment/{names.SYSTEM}/{NAME}").inputs,
        read_secret,
        replaced=elsewhere,
        files={
            f"{CERTIFICATE}/tls.crt": pair.certificate.read_text(),
            f"{CERTIFICATE}/tls.key": pair.key.read_text(),
            AUTHORITY_FILE: objects.authority.read_text(),
        },
    )
    elsewhere |= {
        f"--port={PORT}": f"--port={pod.port}",
        f'("127.0.0.1", {PORT})': f'("127.0.0.1", {pod.port})',
        f"{names.service(NAME, names.SYSTEM)}:{PORT}": f"127.0.0.1:{pod.port}",
    }
    with pod:
        pod.wait_ready(READY_WITHIN)
        yield RegistryPod(pod, authority)
