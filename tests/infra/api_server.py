"""An API server of the tests' own, over real TLS: for what no real one here can be, such as an old Kubernetes."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "a-token-of-the-test"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"


class ApiServer:
    """Answers what a cluster of the given state would; one with room, rights and nothing installed at first."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.version = ("1", "35")
        self.refused: set[str] = set()
        """Rights that the user lacks, as `create namespaces`."""
        self.closed: set[str] = set()
        """Paths that the user may not read."""
        self.answers: dict[str, Any] = {
            "/api/v1/nodes": {"items": [node("4", "16Gi")]},
            "/apis/storage.k8s.io/v1/storageclasses": {"items": [storage_class("standard", default=True)]},
        }
        self.changes: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/version":
            return 200, {"major": self.version[0], "minor": self.version[1]}
        if path.endswith("/selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            allowed = f"{asked['verb']} {asked['resource']}" not in self.refused
            if asked["verb"] == "*":
                allowed = not self.refused
            return 201, {"status": {"allowed": allowed}}
        if method != "GET":
            self.changes.append(f"{method} {path}")
        if path in self.closed:
            return 403, {"kind": "Status", "code": 403}
        found = self.answers.get(path)
        return (200, found) if found is not None else (404, {"kind": "Status", "code": 404})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # one connection for all questions
            wbufsize = 1 << 16  # and one packet for each answer

            def do_GET(self) -> None:
                self._reply("GET")

            def do_POST(self) -> None:
                self._reply("POST")

            def _reply(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    status, answer = 401, {"kind": "Status", "code": 401}
                else:
                    status, answer = server.answer(method, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def node(cpu: str, memory: str, ready: str = "True", **more: str) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": memory, **more}
    return {"status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]}}


def storage_class(name: str, *, default: bool = False) -> dict[str, Any]:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}}


def definition(*served: str, labels: dict[str, str] | None = None, **annotations: str) -> dict[str, Any]:
    """A custom resource definition; `__` in an annotation's name stands for a slash, `_` for a dot or dash as given."""
    return {
        "metadata": {"labels": labels or {}, "annotations": annotations},
        "spec": {"versions": [{"name": name, "served": True} for name in served]},
    }


def create_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "tls.crt", folder / "tls.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def kubeconfig(folder: Path, address: str, certificate: Path | None = None, token: str = TOKEN) -> Path:
    cluster: dict[str, str] = {"server": address}
    if certificate:
        cluster["certificate-authority-data"] = base64.b64encode(certificate.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("main", "other")],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file
