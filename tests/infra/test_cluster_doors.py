"""The doors of a cluster's pages, as the program declares them: what is linked is routed and guarded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.components import names
from slipway.targets.kubernetes.names import DOOR
from slipway.targets.local.doors import cluster_hosts
from tests.infra.recorded_stack import recorded, settings_of

NO_KUBEFLOW = {"profile": "full", "parts": {"pipelines": {"engine": "job"}}}
OTHERS_GRAFANA = {"profile": "full", "parts": {"monitoring": {"existing": True, "grafana": True}}}
WANTED: list[tuple[dict[str, Any], set[str]]] = [
    ({"profile": "core"}, {"portal", "mlflow", "reports"}),
    ({"profile": "full"}, {"portal", "mlflow", "reports", "grafana", "pipelines"}),
    (NO_KUBEFLOW, {"portal", "mlflow", "reports", "grafana"}),
    (OTHERS_GRAFANA, {"portal", "mlflow", "reports", "pipelines"}),
]


@pytest.mark.parametrize(("settings", "doors"), WANTED)
def test_every_door_is_routed_and_has_a_login(settings: dict[str, Any], doors: set[str], tmp_path: Path) -> None:
    cluster = settings_of(tmp_path, **settings).kubernetes
    assert cluster is not None
    hosts = cluster_hosts(cluster)
    assert set(hosts) == doors
    stack = recorded(**settings)
    assert stack.outputs["urls"] == {door: f"https://{host}" for door, host in hosts.items()}
    routes = {each.where: each.inputs for each in stack.of_kind("HTTPRoute")}
    pages = {where: route for where, route in routes.items() if paths_of(route) == {"/"}}
    assert {host for route in pages.values() for host in route["spec"]["hostnames"]} == set(hosts.values())

    login = routes[f"HTTPRoute/{names.SYSTEM}/login"]
    assert set(login["spec"]["hostnames"]) == set(hosts.values()) - {hosts[DOOR]}
    assert paths_of(login) == {"/.slipway/login", "/.slipway/static"}
    assert [each["name"] for rule in login["spec"]["rules"] for each in rule["backendRefs"]] == ["portal"]

    leads = {route["metadata"]["namespace"] for route in pages.values()}
    for namespace in leads:
        assert stack.find(f"Namespace/{namespace}").metadata["labels"][names.ROUTES_LABEL] == "true"


def test_no_server_behind_a_door_is_sent_a_token_or_anothers_session() -> None:
    stack = recorded(profile="full")
    for door, hidden in {
        "reports": {"authorization", "cookie"},
        "pipelines": {"authorization", "cookie"},
        "grafana": {"authorization"},  # its own login is a cookie
        "mlflow": {"cookie"},  # the portal replaces the other
    }.items():
        (route,) = [each.inputs for each in stack.of_kind("HTTPRoute") if each.metadata["name"] == door]
        (rule,) = route["spec"]["rules"]
        removed = {name for each in rule["filters"] for name in each["requestHeaderModifier"]["remove"]}
        assert removed == hidden
    policy = stack.find(f"SecurityPolicy/{names.GATEWAY}/authentication").inputs
    assert policy["spec"]["extAuth"]["http"]["headersToBackend"] == ["authorization"]


def test_grafana_believes_no_header_and_lets_nobody_edit_without_its_own_login() -> None:
    (chart,) = [
        each for each in recorded(profile="full").resources if each.name == "monitoring" and "values" in each.inputs
    ]
    settings = chart.inputs["values"]["grafana"]["grafana.ini"]
    assert settings["auth.anonymous"] == {"enabled": True, "org_role": "Viewer"}
    assert not {section for section in settings if section.startswith("auth.")} - {"auth.anonymous"}


def paths_of(route: dict[str, Any]) -> set[str]:
    return {match["path"]["value"] for rule in route["spec"]["rules"] for match in rule.get("matches", [])}
