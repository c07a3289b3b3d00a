"""What may be pinned, and what is refused: each rule with a pin that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.versions import DIGESTS, FLOORS, ImagePin, load_versions
from slipway.errors import InvalidSettings, Unknown

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
    assert versions.without_digest() == ["manifests.third"]


def test_an_unknown_pin_names_those_that_exist() -> None:
    with pytest.raises(Unknown, match="mlflow"):
        load_versions().image("mlfow")


def test_an_image_is_named_by_tag_and_digest_below_the_mirror() -> None:
    pin = ImagePin(reference="docker.io/a/b", tag="1.2", digest="sha256:" + "c" * 64, why="a reason of some length")
    assert pin.address() == f"docker.io/a/b:1.2@sha256:{'c' * 64}"
    assert pin.address("registry.example.com/mirror") == f"registry.example.com/mirror/a/b:1.2@sha256:{'c' * 64}"
