"""How traffic becomes clusters and routes, and how Envoy's counters become answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady
from slipway.settings import Settings
from slipway.targets import Traffic
from slipway.targets.local import traffic, xds


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "test.toml", Settings(name="test", state_dir=tmp_path / "state"))


def gateway_with(**shares: Traffic) -> xds.Gateway:
    sockets = {name: Path(f"/run/{name}.sock") for name in ("portal", "mlflow", "reports")}
    sockets |= {f"{m}-{v}": Path(f"/run/{m}-{v}.sock") for m, share in shares.items() for v in xds.versions_of(share)}
    hosts = {door: (f"{door}.localhost",) for door in ("portal", "mlflow", "reports", "ray")}
    return xds.Gateway(hosts, {"predict": "secret"}, shares, sockets, ray_port=1)  # type: ignore[arg-type]


def clusters_of(**shares: Traffic) -> dict[str, dict[str, Any]]:
    return {cluster["name"]: cluster for cluster in xds.clusters(gateway_with(**shares))}


def fallbacks(cluster: dict[str, Any]) -> list[str]:
    names: list[str] = cluster["cluster_type"]["typed_config"]["clusters"]
    return names


def predictions(model: str, **shares: Traffic) -> list[dict[str, Any]]:
    hosts = xds.gateway_routes(gateway_with(**shares))["virtual_hosts"]
    return [r for host in hosts for r in host["routes"] if r["match"].get("path") == f"/v1/models/{model}:predict"]


def test_a_dead_versions_share_goes_to_champion_and_previous_and_never_to_a_challenger() -> None:
    found = clusters_of(m=Traffic(3, 4, 10, 2))
    assert fallbacks(found["m-3-first"]) == ["m-3", "m-2"]
    assert fallbacks(found["m-4-first"]) == ["m-4", "m-3", "m-2"]


def test_a_version_keeps_its_cluster_when_its_part_changes() -> None:
    before, after = clusters_of(m=Traffic(3, 4, 50, 2)), clusters_of(m=Traffic(4, None, 0, 3))
    for version in ("m-3", "m-4"):
        assert before[version] == after[version]  # so that its counters go on


def test_mirrored_copies_have_clusters_of_their_own() -> None:
    found = clusters_of(m=Traffic(3, 4, 10))
    assert {"m-3-shadow", "m-4-shadow"} <= found.keys()
    assert not [name for name in clusters_of(m=Traffic(3, None, 0, 2)) if name.endswith("shadow")]


def test_every_cluster_that_a_route_names_exists() -> None:
    shares = {"m": Traffic(3, 4, 10, 2), "n": Traffic(1)}
    known = {cluster["name"] for cluster in xds.clusters(gateway_with(**shares))}
    for host in xds.gateway_routes(gateway_with(**shares))["virtual_hosts"]:
        for route in host["routes"]:
            action = route.get("route", {})
            mirrors = [mirror["cluster"] for mirror in action.get("request_mirror_policies", [])]
            assert {*mirrors, *([action["cluster"]] if action else [])} <= known


def test_the_challengers_share_comes_first_and_each_is_mirrored_to_the_other() -> None:
    first, rest = predictions("m", m=Traffic(3, 4, 10))
    assert first["match"]["runtime_fraction"]["default_value"] == {"numerator": 10, "denominator": "HUNDRED"}
    assert first["route"]["cluster"] == "m-4-first"
    assert first["route"]["request_mirror_policies"][0]["cluster"] == "m-3-shadow"
    assert "runtime_fraction" not in rest["match"]
    assert rest["route"]["cluster"] == "m-3-first"
    assert rest["route"]["request_mirror_policies"][0]["cluster"] == "m-4-shadow"


def test_without_a_challenger_nothing_is_mirrored() -> None:
    (only, *_) = predictions("m", m=Traffic(3, None, 0, 2))
    assert only["route"]["cluster"] == "m-3-first"
    assert "request_mirror_policies" not in only["route"]


def test_the_same_content_in_another_order_is_the_same_version() -> None:
    a, b = {"name": "a", "x": 1}, {"name": "b", "x": 2}
    assert xds.discovery([a, b]) == xds.discovery([b, a])
    assert xds.discovery([a])["version_info"] != xds.discovery([b])["version_info"]


@pytest.mark.parametrize("wrong", [Traffic(1, 2, 101), Traffic(1, 2, -1), Traffic(1, None, 10), Traffic(1, 1, 10)])
def test_traffic_that_makes_no_sense_is_refused_before_anything_is_touched(
    environment: Environment, wrong: Traffic
) -> None:
    with pytest.raises(InvalidInput):
        traffic.set_traffic(environment, "m", wrong)
    assert not environment.state.root.exists()


def test_a_model_that_is_not_routed_has_no_traffic_and_no_counts(environment: Environment) -> None:
    assert traffic.read_traffic(environment, "m") is None
    with pytest.raises(NotReady):
        traffic.count_answers(environment, "m")


def buckets(*pairs: tuple[float, int], width: float = 0.1) -> list[dict[str, Any]]:
    return [{"lower_bound": low, "width": width, "count": count} for low, count in pairs]


def test_quantiles_are_interpolated_inside_the_whole_milliseconds_that_envoy_keeps() -> None:
    # Half of the answers took 2.0 to 2.99 ms, half 3.0 to 3.99 ms: the median is 3 ms, not one of 2.05 and 3.05.
    assert traffic._quantile(buckets((2, 50), (3, 50)), 0.5) == pytest.approx(0.003)
    assert traffic._quantile(buckets((2, 100)), 0.5) == pytest.approx(0.0025)
    assert traffic._quantile(buckets((2, 90), (7, 10)), 0.95) == pytest.approx(0.0075)
    assert traffic._quantile([*buckets((2, 50)), *buckets((120, 50), width=10)], 0.95) == pytest.approx(0.129)


def test_without_answers_there_is_no_latency() -> None:
    assert traffic._quantile([], 0.5) is None
    assert traffic._quantile(buckets((2, 0)), 0.5) is None


def test_latency_counts_from_the_mark_and_from_the_start_of_a_restarted_gateway() -> None:
    mark = [{"lower_bound": 2, "width": 1, "count": 6000}]
    now = [{"lower_bound": 2, "width": 1, "count": 6001}, {"lower_bound": 20, "width": 1, "count": 9}]
    since = traffic._count_since(now, mark)
    assert traffic._quantile(since, 0.5) == pytest.approx(0.0204, abs=0.001)
    assert traffic._count_since(now[1:], mark) == now[1:]
