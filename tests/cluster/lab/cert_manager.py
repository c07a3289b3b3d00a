"""What cert-manager makes of our Certificates: Secrets with pairs that one authority signed. It renews nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.cluster.lab.certificates import Authority
from tests.cluster.lab.control_plane import ControlPlane

Object = dict[str, Any]


def issue(control_plane: ControlPlane, certificates: Iterable[Object]) -> Path:
    """Make the Secret of each Certificate of a server; returns the authority's certificate."""
    folder = control_plane.folder / "issued"
    authority = Authority(folder, "slipway")
    control_plane.apply(_secret(authority, item) for item in certificates if not item["spec"].get("isCA"))
    return authority.certificate


def _secret(authority: Authority, certificate: Object) -> Object:
    spec = certificate["spec"]
    pair = authority.sign(spec["secretName"], common_name=spec.get("commonName", ""), hosts=spec["dnsNames"])
    data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {
            "name": spec["secretName"],
            "namespace": certificate["metadata"]["namespace"],
            **spec.get("secretTemplate", {}),
        },
        "data": {key: base64.b64encode(file.read_bytes()).decode() for key, file in data.items()},
    }
