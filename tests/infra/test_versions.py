"""What may be pinned, and what is refused: each rule with a pin that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import InvalidSettings, Unknown
from slipway.mirror.versions import DIGESTS, FLOORS, ImagePin, Versions, load_versions
from tests.infra.recorded_stack import fill_mirror

CHART = """
[charts.{key}]
source = "{source}"
name = "{name}"
version = "{version}"
why = "a reason of some length"
"""
IMAGE = """
[images.{key}]
reference = "{reference}"
tag = "{tag}"
digest = "{digest}"
why = "a reason of some length"
"""
MANIFEST = """
[manifests.{key}]
source = "{source}"
version = "{version}"
why = "a reason of some length"
"""
GOOD = {
    "chart": {"key": "some", "source": "https://charts.example.com", "name": "some", "version": "1.2.3"},
    "image": {"key": "other", "reference": "docker.io/example/other", "tag": "1.2.3", "digest": ""},
    "manifest": {"key": "third", "source": "https://example.com/v1.2.3/all.yaml", "version": "1.2.3"},
}


def _written(tmp_path: Path, **changes: dict[str, str]) -> Path:
    file = tmp_path / "versions.toml"
    values = {kind: GOOD[kind] | changes.get(kind, {}) for kind in GOOD}
    file.write_text(
        CHART.format(**values["chart"]) + IMAGE.format(**values["image"]) + MANIFEST.format(**values["manifest"])
    )
    return file


def test_what_the_platform_pins_is_in_order() -> None:
    assert len(list(load_versions().pins())) > 20


def test_every_part_with_a_floor_is_pinned() -> None:
    assert set(FLOORS) <= {key.partition(".")[2] for key, _ in load_versions().pins()}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("image", {"tag": "latest"}, "images.other: 'latest' is not a version"),
        ("image", {"tag": "stable"}, "images.other: 'stable' is not a version"),
        ("image", {"tag": ""}, "images.other.tag"),
        ("image", {"reference": "valkey"}, "images.other.reference"),
        ("image", {"digest": "sha256:123"}, "images.other.digest"),
        ("image", {"reference": "docker.io/bitnami/redis"}, "images.other: docker.io/bitnami/redis is a retired"),
        ("image", {"reference": "quay.io/minio/minio"}, "images.other: quay.io/minio/minio is a retired source"),
        ("image", {"reference": "k8s.gcr.io/pause"}, "images.other: k8s.gcr.io/pause is a retired source"),
        ("image", {"key": "mlflow", "tag": "v3.9.0"}, "images.mlflow: v3.9.0 has a known hole"),
        ("image", {"key": "ray", "tag": "2.53.1"}, "images.ray: 2.53.1 has a known hole"),
        ("chart", {"version": "^1.2"}, "charts.some.version"),
        ("chart", {"version": "*"}, "charts.some.version"),
        ("chart", {"version": "edge"}, "charts.some: 'edge' is not a version"),
        ("chart", {"source": "http://charts.example.com"}, "charts.some.source"),
        ("chart", {"name": "ingress-nginx"}, "charts.some: https://charts.example.com/ingress-nginx is a retired"),
        ("chart", {"source": "oci://registry-1.docker.io/bitnami"}, "is a retired source"),
        ("chart", {"key": "kserve", "version": "v0.16.0"}, "charts.kserve: v0.16.0 has a known hole"),
        ("chart", {"key": "kuberay", "version": "1.5.0"}, "charts.kuberay: 1.5.0 has a known hole"),
        ("manifest", {"source": "https://example.com/main/all.yaml"}, "manifests.third: source does not name version"),
        (
            "manifest",
            {"key": "feast_operator", "version": "0.65.0", "source": "https://x.example/0.65.0"},
            "known hole",
        ),
    ],
)
def test_a_bad_pin_is_refused(tmp_path: Path, kind: str, change: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_versions(_written(tmp_path, **{kind: change}))
    assert message in str(caught.value)


def test_all_bad_pins_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_versions(_written(tmp_path, image={"tag": "latest"}, chart={"version": "edge"}))
    assert [problem.where for problem in caught.value.problems] == ["charts.some", "images.other"]


def test_a_name_that_only_contains_a_retired_word_is_taken(tmp_path: Path) -> None:
    load_versions(_written(tmp_path, image={"reference": "docker.io/dominion/app"}))


def test_a_mirror_fills_in_digests_and_replaces_none(tmp_path: Path) -> None:
    reviewed, found = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    file = _written(tmp_path, image={"digest": reviewed})
    (tmp_path / DIGESTS).write_text(f'[charts]\nsome = "{found}"\n[images]\nother = "{found}"\n')
    versions = load_versions(file, mirror=tmp_path)
    assert versions.chart("some").digest == found
    assert versions.image("other").digest == reviewed
    assert versions.manifest("third").digest == ""


def test_an_unknown_pin_names_those_that_exist() -> None:
    with pytest.raises(Unknown, match="mlflow"):
        load_versions().image("mlfow")


MIRROR = "registry.example.com/mirror"


@pytest.fixture
def reviewed(tmp_path: Path) -> Versions:
    """The pins as after a mirror was pulled: each image with a digest."""
    return load_versions(mirror=fill_mirror(tmp_path))


@pytest.mark.parametrize(
    ("text", "ours", "mirrored"),
    [
        # As Kubeflow Pipelines, Argo and KServe are told of them: a variable, an argument, JSON; and YAML.
        ("ghcr.io/kubeflow/kfp-driver:2.17.0", "ghcr.io/kubeflow/kfp-driver:2.17.0@D",
         "M/kubeflow/kfp-driver:2.17.0@D"),
        ("--executor-image=quay.io/argoproj/argoexec:v4.0.5", "--executor-image=quay.io/argoproj/argoexec:v4.0.5@D",
         "--executor-image=M/argoproj/argoexec:v4.0.5@D"),
        ('"image" : "kserve/kserve-controller:v0.20.0",', '"image" : "docker.io/kserve/kserve-controller:v0.20.0@D",',
         '"image" : "M/kserve/kserve-controller:v0.20.0@D",'),
        ("a: alpine:3.23.5\nb: docker.io/library/mysql:8.4.11\n",
         "a: docker.io/library/alpine:3.23.5@D\nb: docker.io/library/mysql:8.4.11@D\n",
         "a: M/library/alpine:3.23.5@D\nb: M/library/mysql:8.4.11@D\n"),
    ],
)  # fmt: skip
def test_images_within_a_text_are_named_like_a_pods(reviewed: Versions, text: str, ours: str, mirrored: str) -> None:
    digest = f"sha256:{'0' * 64}"
    ours, mirrored = (each.replace("@D", f"@{digest}").replace("M/", f"{MIRROR}/") for each in (ours, mirrored))
    assert reviewed.pinned_in(text) == ours
    assert reviewed.pinned_in(text, MIRROR) == mirrored
    assert reviewed.pinned_in(ours) == ours, "once is enough"
    assert reviewed.pinned_in(mirrored, MIRROR) == mirrored, "once is enough"


@pytest.mark.parametrize(
    "text",
    [
        "quay.io/argoproj/argoexec",
        "quay.io/argoproj/argoexec:v4.0.50",
        "quay.io/argoproj/argoexec:v4.0.5-rc1",
        "mirror.example.com/quay.io/argoproj/argoexec:v4.0.5",
        "https://quay.io/argoproj/argoexec:v4.0.5",
        "other/kserve/kserve-controller:v0.20.0",
        "object-store.slipway-data.svc.cluster.local:8333",
        "quay.io/somebody/else:v1.2.3",
        "",
    ],
)
def test_a_text_that_names_no_pinned_image_stays(reviewed: Versions, text: str) -> None:
    assert reviewed.pinned_in(text, MIRROR) == text


def test_an_image_that_our_values_took_from_the_mirror_is_not_taken_from_it_twice(reviewed: Versions) -> None:
    once = reviewed.image("envoy_gateway").address(MIRROR)
    assert reviewed.pinned(once, MIRROR) == once


def test_an_image_is_named_by_tag_and_digest_below_the_mirror() -> None:
    pin = ImagePin(reference="docker.io/a/b", tag="1.2", digest="sha256:" + "c" * 64, why="a reason of some length")
    assert pin.address() == f"docker.io/a/b:1.2@sha256:{'c' * 64}"
    assert pin.address("registry.example.com/mirror") == f"registry.example.com/mirror/a/b:1.2@sha256:{'c' * 64}"
