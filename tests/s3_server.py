"""An S3 server for tests, speaking the real protocol by TLS on loopback: moto's, whose objects are in memory."""

from __future__ import annotations

import ssl
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from slipway import pod
from tests.cluster.lab.certificates import Authority

BUCKET = "logs"


@dataclass(frozen=True)
class S3Server:
    """Where it answers, and who signed its certificate."""

    url: str
    authority: Path


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """There is one bucket."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder), "authority")
        pair = authority.sign("object-store", hosts=["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        server = make_server(
            "127.0.0.1",
            0,
            DomainDispatcherApplication(create_backend_app),
            threaded=True,
            request_handler=MotoRequestHandler,
            ssl_context=context,
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            url = f"https://127.0.0.1:{server.server_port}"
            trusted = ssl.create_default_context(cafile=authority.certificate)
            # The first loads the service.
            httpx.put(f"{url}/{BUCKET}", verify=trusted, trust_env=False, timeout=60).raise_for_status()
            yield S3Server(url, authority.certificate)
        finally:
            server.shutdown()
            thread.join()


def credentials(server: S3Server, place: str = "") -> dict[str, str]:
    """The files of a pod that is given every user's Secret, by their place below its secrets.

    Pods of one `place` see the same objects; without one nobody else does.
    """
    keys = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    told = keys | {"url": server.url, "authority": str(server.authority)}
    root = f"s3://{BUCKET}/{place or uuid.uuid4()}"
    return {
        f"{user}/{name}": text
        for user in (pod.INFERENCE_LOG, pod.FEATURES, pod.SNAPSHOTS, pod.REPORTS, pod.PIPELINES)
        for name, text in (told | {"root": f"{root}/{user}"}).items()
    }
