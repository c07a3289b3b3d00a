"""What an environment demands before it is installed: every digest known, every chart there and unchanged."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from infra.provenance import find_faults, list_used
from slipway.environment import Environment
from slipway.kubernetes_settings import PART_NAMES, SUPPORTED_VERSIONS
from slipway.mirror.pins import write_digests
from slipway.mirror.versions import load_versions
from tests.infra.recorded_stack import CLOUDS, GPU, GPU_POOL, settings_of

ONLY_THE_CACHE = {part: {"enabled": part == "cache"} for part in PART_NAMES} | {"cert_manager": {"existing": True}}
CACHE_AND_QUEUES = ONLY_THE_CACHE | {"queueing": {"enabled": True}}


def environment_of(folder: Path, **kubernetes: Any) -> Environment:
    return Environment(folder / "test.toml", settings_of(folder / "state", **kubernetes))


def test_all_that_has_no_digest_is_named_at_once_with_the_command_that_looks_it_up(tmp_path: Path) -> None:
    (problem,) = find_faults(environment_of(tmp_path))
    for pin in ("charts.kueue", "manifests.cloudnative_pg", "images.mlflow", "images.cert_manager_webhook"):
        assert pin in problem.message
    assert "slipway mirror pull DIR --no-images" in problem.hint
    assert "[kubernetes.mirror] dir" in problem.hint


def test_what_a_disabled_part_would_bring_is_not_demanded(tmp_path: Path) -> None:
    assert list_used(settings_of(tmp_path, parts=ONLY_THE_CACHE)) == {"images.valkey"}


def test_what_a_chart_brings_by_itself_is_demanded_with_the_chart(tmp_path: Path) -> None:
    used = list_used(settings_of(tmp_path, parts=ONLY_THE_CACHE | {"cert_manager": {"enabled": True}}))
    assert {"charts.cert_manager", "images.cert_manager_controller", "images.cert_manager_webhook"} <= used
    existing = {"cert_manager": {"existing": True}}
    assert list_used(settings_of(tmp_path, parts=ONLY_THE_CACHE | existing)) == {"images.valkey"}


def test_an_own_image_of_the_platform_needs_no_pinned_one(tmp_path: Path) -> None:
    image = f"registry.example.com/ours@sha256:{'a' * 64}"
    assert "images.platform" in list_used(settings_of(tmp_path))
    assert "images.platform" not in list_used(settings_of(tmp_path, image=image))


@pytest.mark.parametrize("registry", ["", "registry.example.com/mirror"])
def test_a_registry_of_ones_own_changes_nothing_of_what_is_demanded(tmp_path: Path, registry: str) -> None:
    assert list_used(settings_of(tmp_path, mirror={"registry": registry})) == list_used(settings_of(tmp_path))


def test_every_pin_is_demanded_by_some_environment(tmp_path: Path) -> None:
    everything = GPU["parts"] | {"monitoring": {"metrics_server": "install"}}
    used = list_used(settings_of(tmp_path)) | list_used(settings_of(tmp_path, profile="full", parts=everything))
    for version in SUPPORTED_VERSIONS:
        used |= list_used(settings_of(tmp_path, provider="kind", version=version))
        used |= list_used(settings_of(tmp_path, **CLOUDS["eks"], version=version))
    for cloud in CLOUDS.values():
        pool = {"gpu": GPU_POOL["nodes"]["gpu"] | {"accelerator": "nvidia-l4"}}
        used |= list_used(settings_of(tmp_path, **cloud, nodes=pool, parts=GPU["parts"]))
    # What images are built from is named by no object: the platform's own, and those of people's own for Ray.
    assert {key for key, _ in load_versions().pins()} - used == {"images.python", "images.ray"}


def digests(folder: Path, **known: str) -> Path:
    """A mirror's folder in which these were looked up."""
    folder.mkdir(exist_ok=True)
    write_digests(folder, {name.replace("__", "."): digest for name, digest in known.items()})
    return folder


def test_with_digests_and_the_very_charts_nothing_is_wrong(tmp_path: Path) -> None:
    content = b"the chart"
    chart = tmp_path / "mirror" / load_versions().chart("kueue").mirror_file
    chart.parent.mkdir(parents=True)
    chart.write_bytes(content)
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    mirror = digests(tmp_path / "mirror", images__valkey=found, images__kueue=found, charts__kueue=found)
    environment = environment_of(tmp_path, parts=CACHE_AND_QUEUES, mirror={"dir": mirror})
    assert find_faults(environment) == []

    chart.write_bytes(b"another chart")
    (problem,) = find_faults(environment)
    assert problem.where == "charts.kueue in kubernetes.mirror.dir"
    assert f"pinned is {found}" in problem.message
    assert f"remove {chart}" in problem.hint

    chart.unlink()
    (problem,) = find_faults(environment)
    assert problem.message == "charts/kueue-0.18.2.tgz is not there"
    assert problem.hint == f"slipway mirror pull {mirror}"


def test_a_mirror_that_lacks_digests_is_told_which(tmp_path: Path) -> None:
    mirror = digests(tmp_path / "mirror", images__valkey=f"sha256:{'a' * 64}")
    (problem,) = find_faults(environment_of(tmp_path, parts=CACHE_AND_QUEUES, mirror={"dir": mirror}))
    assert problem.message == "no digest of charts.kueue, images.kueue"
    assert problem.hint == f"slipway mirror pull {mirror} --no-images looks them up"
