"""What the infrastructure program and this target must spell alike, and the names of revisions and routes.

A test compares the first half with what `infra/components/` makes.
"""

from __future__ import annotations

import hashlib
import re

SYSTEM = "slipway-system"
"""Namespace of the controller, whose pod has the ledger within reach."""
NAMESPACE = "slipway-serving"
GATEWAY = "slipway"
GATEWAY_NAMESPACE = "slipway-gateway"
LISTENER = "https"
TLS = "gateway-tls"
"""Secret of the certificate that the gateway shows."""
DOOR = "portal"
"""Host name below the domain at which predictions are asked for."""
RUNTIME = "slipway"
ACCOUNT = "revision"
PORT = 8080
"""Of a revision's server; its Service listens on 80."""
SERVICE_PORT = 80
ACCELERATOR = {"slipway.dev/accelerator": "nvidia"}
ACCELERATOR_TAINT = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}
ACCELERATOR_RESOURCE = "nvidia.com/gpu"

MODEL_LABEL, VERSION_LABEL = "slipway.dev/model", "slipway.dev/version"

_LONGEST = 50
"""`-predictor` and the hashes of ReplicaSets and pods come behind it; 63 is the limit of all."""


def route_name(model: str) -> str:
    """The model's one route. No two models share it: their names have no hyphen."""
    return model.replace("_", "-") if len(model) <= _LONGEST else _shorten(model, _LONGEST)


def revision_name(model: str, version: int) -> str:
    """The InferenceService of one version."""
    ending = f"-{version}"
    return _shorten(model, _LONGEST - len(ending)) + ending


def service_name(model: str, version: int) -> str:
    """The Service that KServe makes for it."""
    return f"{revision_name(model, version)}-predictor"


def label_value(text: str) -> str:
    """Words as a label may hold them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("-._")


def _shorten(model: str, longest: int) -> str:
    name = model.replace("_", "-")
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{name[: longest - 9].rstrip('-')}-{digest}"
