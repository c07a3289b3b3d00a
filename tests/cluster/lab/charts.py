"""Operators' charts, rendered by helm from the module cache, and made to fit a controller outside of the cluster."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.lab.processes import LabError
from tests.cluster.tools.build import find_program

Object = dict[str, Any]

RENDERED_WITHIN = 120
PERMISSIONS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def render(chart: Path, release: str, namespace: str, values: Mapping[str, Any]) -> list[Object]:
    """The chart's objects, in its order and without its hooks."""
    command = [find_program("helm"), "template", release, chart, "--namespace", namespace, "--no-hooks"]
    # Envoy Gateway's charts get their values when they are released: only images are missing, which ours name.
    for template in chart.glob("values.tmpl.yaml"):
        command += ["--values", template]
    command += ["--values", "-"]
    done = subprocess.run(
        [str(part) for part in command],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=RENDERED_WITHIN,
        env={**os.environ, "HELM_CACHE_HOME": "/nonexistent", "HELM_CONFIG_HOME": "/nonexistent"},
        check=False,
    )
    if done.returncode:
        raise LabError(f"helm template {chart.name}: {done.stderr.strip()}")
    loaded = yaml.load_all(done.stdout, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [item for item in loaded if item]


def of_kinds(objects: Iterable[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def call_by_address(configuration: Object, host: str, port: int, authority: str) -> Object:
    """A webhook configuration whose Service nobody could resolve: called at this machine's address instead.

    `authority` is the base64 text that its certificate is checked with.
    """
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"].pop("service")
        webhook["clientConfig"] |= {
            "url": f"https://{host}:{port}{service.get('path', '')}",
            "caBundle": authority,
        }
    configuration["metadata"].get("annotations", {}).pop("cert-manager.io/inject-ca-from", None)
    return configuration
