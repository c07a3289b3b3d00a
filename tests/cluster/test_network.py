"""What the table of flows says of pods that charts bring, against the charts as they are rendered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab import charts
from tests.cluster.lab.stack import Stack
from tests.cluster.tools.build import module_folder
from tests.infra.network_pods import CHARTS

pytestmark = pytest.mark.cluster

RENDERED = {
    "envoy-gateway": ("envoy-gateway", "github.com/envoyproxy/gateway", "gateway-helm"),
    "kserve": ("kserve", "github.com/kserve/kserve", "kserve-resources"),
    "kueue": ("kueue", "sigs.k8s.io/kueue", "kueue"),
}
"""Component -> pins, module, and the chart in it."""
CALLED = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "APIService")


@pytest.fixture(scope="module")
def rendered(stack: Stack) -> dict[str, list[dict[str, Any]]]:
    return {name: list(_render(stack, name)) for name in RENDERED}


def _render(stack: Stack, name: str) -> Iterator[dict[str, Any]]:
    pins, module, chart = RENDERED[name]
    folder: Path = module_folder(pins, module) / "charts" / chart
    (known,) = CHARTS[name]
    yield from charts.render(folder, name, known.namespace, stack.chart_values(name))


@pytest.mark.parametrize("name", RENDERED)
def test_pods_of_a_chart_have_the_labels_and_ports_that_the_table_says(name: str, rendered: dict[str, Any]) -> None:
    (deployment,) = charts.of_kinds(rendered[name], "Deployment")
    template = deployment["spec"]["template"]
    (known,) = CHARTS[name]
    assert known.labels.items() <= template["metadata"]["labels"].items()
    ports = {port["containerPort"] for container in template["spec"]["containers"] for port in container["ports"]}
    assert ports == set(known.ports.values())
    assert charts.of_kinds(rendered[name], "NetworkPolicy") == [], "a policy of its own would allow more"


@pytest.mark.parametrize("name", RENDERED)
def test_what_the_api_server_calls_is_let_in(name: str, rendered: dict[str, Any], stack: Stack) -> None:
    services = {each["metadata"]["name"]: each for each in charts.of_kinds(rendered[name], "Service")}
    (known,) = CHARTS[name]
    (policy,) = (
        each for each in stack.objects("NetworkPolicy", namespace=known.namespace) if each["metadata"]["name"] == name
    )
    let_in = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    called = {
        known.ports.get(str(port["targetPort"]), port["targetPort"])
        for each in charts.of_kinds(rendered[name], *CALLED)
        for reference in _services_of(each)
        for port in services[reference["name"]]["spec"]["ports"]
        if port["port"] == reference.get("port", 443)
    }
    assert called <= let_in
    assert called or name == "envoy-gateway", "it has no webhook"


def _services_of(configuration: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for webhook in configuration.get("webhooks") or ():
        yield webhook["clientConfig"]["service"]
    if configuration["kind"] == "APIService":
        yield configuration["spec"]["service"]
