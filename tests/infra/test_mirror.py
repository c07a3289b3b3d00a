"""A mirror against a registry and a chart repository that answer as real ones do, broken connections included."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from typer.testing import CliRunner

from infra.components.kubeflow_pipelines import OVERLAY
from slipway.cli import app
from slipway.errors import InvalidInput, InvalidSettings
from slipway.mirror.check import check
from slipway.mirror.download import DigestDiffers, Downloads, FetchFailed
from slipway.mirror.pins import Pin, read_pins
from slipway.mirror.pull import Failure, pull
from slipway.mirror.registry import CHART, MANIFESTS
from slipway.mirror.versions import FILE, load_versions

INDEX_TYPE, _, MANIFEST_TYPE, _ = MANIFESTS


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry:
    """Speaks the distribution protocol: token first, then manifests and blobs, ranges understood."""

    def __init__(self, router: respx.MockRouter, host: str = "registry.example.com") -> None:
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.log: list[str] = []
        self.break_after: int | None = None
        """Bytes of a blob after which the connection is cut, once."""
        self.host = host
        router.get(url__regex=rf"https://{host}/v2/.*").mock(side_effect=self.answer)
        router.get(url__regex=rf"https://{host}/token.*").mock(side_effect=self.give_token)

    def add_blob(self, content: bytes, media_type: str = "application/octet-stream") -> dict[str, Any]:
        self.blobs[digest(content)] = content
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    def add_manifest(self, tag: str, document: dict[str, Any], media_type: str = MANIFEST_TYPE) -> dict[str, Any]:
        content = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
        for name in (tag, digest(content)):
            self.manifests[name] = (media_type, content)
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    def add_image(self, tag: str, *layers: bytes) -> str:
        """An image for two platforms; the layers are shared. Returns the digest of its index."""
        platforms = []
        for platform in ("amd64", "arm64"):
            config = self.add_blob(platform.encode())
            manifest = {"config": config, "layers": [self.add_blob(layer) for layer in layers]}
            platforms.append(self.add_manifest(f"{tag}-{platform}", manifest))
        return str(self.add_manifest(tag, {"manifests": platforms}, INDEX_TYPE)["digest"])

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            realm = f'Bearer realm="https://{self.host}/token",service="{self.host}",scope="repository:x:pull"'
            return httpx.Response(401, headers={"WWW-Authenticate": realm})
        kind, name = request.url.path.rsplit("/", 2)[1:]
        self.log.append(f"{kind}/{name}")
        if kind == "manifests":
            if name not in self.manifests:
                return httpx.Response(404)
            media_type, content = self.manifests[name]
            return httpx.Response(200, content=content, headers={"Content-Type": media_type})
        return self._blob(self.blobs[name], request.headers.get("Range"))

    def _blob(self, content: bytes, asked: str | None) -> httpx.Response:
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        cut, self.break_after = self.break_after, None
        return httpx.Response(206 if asked else 200, stream=_Stream(content[start:], cut))

    def give_token(self, request: httpx.Request) -> httpx.Response:
        token = f"token-{len(self.tokens)}"
        self.tokens.add(token)
        return httpx.Response(200, json={"token": token})


class _Stream(httpx.SyncByteStream):
    def __init__(self, content: bytes, cut: int | None) -> None:
        self._content, self._cut = content, cut

    def __iter__(self) -> Iterator[bytes]:
        yield self._content[: self._cut]
        if self._cut is not None:
            raise httpx.RemoteProtocolError("peer closed connection")


@pytest.fixture
def router() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def registry(router: respx.MockRouter) -> Registry:
    return Registry(router)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Downloads]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    with httpx.Client() as client:
        yield Downloads(client, pause=0)


IMAGE = Pin("images", "server", "registry.example.com/team/server", "1.2.3")
CHART_PIN = Pin("charts", "operator", "oci://registry.example.com/charts", "1.0.0", chart="operator")
INDEXED = Pin("charts", "indexed", "https://charts.example.com/stable/", "v2.0.0", chart="indexed")
MANIFEST = Pin("manifests", "definitions", "https://github.com/example/operator/v3.0.0/all.yaml", "3.0.0")


def fill(folder: Path, pins: list[Pin], downloads: Downloads, **options: bool) -> list[Failure]:
    return pull(folder, pins, downloads, say=lambda text: None, **options)


def known(folder: Path, pin: Pin) -> Pin:
    """The pin with the digest that the mirror found."""
    found = tomllib.loads((folder / "digests.toml").read_text())[pin.kind][pin.name]
    return Pin(pin.kind, pin.name, pin.source, pin.version, found, pin.chart)


def test_an_image_is_fetched_whole_for_every_platform(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    index = registry.add_image("1.2.3", b"layer one", b"layer two")
    assert fill(tmp_path, [IMAGE], downloads) == []
    assert known(tmp_path, IMAGE).digest == index
    held = {file.name for file in (tmp_path / "images/blobs/sha256").iterdir()}
    assert held == {name.partition(":")[2] for name in [*registry.blobs, index]} | {
        digest(content).partition(":")[2] for _, content in registry.manifests.values()
    }
    named = json.loads((tmp_path / "images/index.json").read_text())["manifests"][0]["annotations"]
    assert named == {"org.opencontainers.image.ref.name": "registry.example.com/team/server:1.2.3"}
    assert check(tmp_path, [known(tmp_path, IMAGE)]) == []


def test_what_is_there_is_not_fetched_again(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    registry.add_image("1.2.3", b"layer")
    fill(tmp_path, [IMAGE], downloads)
    registry.log.clear()
    assert fill(tmp_path, [known(tmp_path, IMAGE)], downloads) == []
    assert registry.log == []


def test_layers_that_images_share_are_fetched_once(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    registry.add_image("1.2.3", b"base")
    registry.add_image("1.2.4", b"base", b"more")
    newer = Pin("images", "newer", IMAGE.source, "1.2.4")
    assert fill(tmp_path, [IMAGE, newer], downloads) == []
    assert registry.log.count(f"blobs/{digest(b'base')}") == 1


def test_a_blob_goes_on_where_the_connection_broke(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    registry.add_image("1.2.3", b"0123456789" * 100)
    registry.break_after = 1
    assert fill(tmp_path, [IMAGE], downloads) == []
    assert check(tmp_path, [known(tmp_path, IMAGE)]) == []
    assert not list(tmp_path.rglob("*.part"))


def test_a_pull_that_was_killed_is_completed_by_the_next(
    tmp_path: Path, registry: Registry, downloads: Downloads
) -> None:
    registry.add_image("1.2.3", b"layer one", b"layer two")
    gone = registry.blobs.pop(digest(b"layer two"))
    with pytest.raises(KeyError):  # the registry dies in the middle
        fill(tmp_path, [IMAGE], downloads)
    assert not (tmp_path / "images/index.json").exists()
    registry.blobs[digest(gone)] = gone
    assert fill(tmp_path, [IMAGE], downloads) == []
    assert registry.log.count(f"blobs/{digest(b'layer one')}") == 1


def test_an_image_that_was_moved_is_refused(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    registry.add_image("1.2.3", b"layer")
    wanted = "sha256:" + "a" * 64
    registry.manifests[wanted] = registry.manifests["1.2.3"]
    pinned = Pin("images", "server", IMAGE.source, "1.2.3", wanted)
    (failure,) = fill(tmp_path, [pinned], downloads)
    assert isinstance(failure.error, DigestDiffers)
    assert "pin the new digest" in failure.error.hint
    assert not (tmp_path / "images").exists()


def test_a_damaged_blob_is_refused_and_not_kept(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    registry.add_image("1.2.3", b"layer")
    registry.blobs[digest(b"layer")] = b"other"
    (failure,) = fill(tmp_path, [IMAGE], downloads)
    assert isinstance(failure.error, DigestDiffers)
    assert not (tmp_path / "images/blobs/sha256" / digest(b"layer").partition(":")[2]).exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_token_that_ran_out_is_asked_for_anew(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    registry.add_image("1.2.3", b"layer")
    once = registry.answer

    def forget_after_a_manifest(request: httpx.Request) -> httpx.Response:
        response = once(request)
        if response.status_code == 200 and "/manifests/" in request.url.path:
            registry.tokens = {f"old {token}" for token in registry.tokens}
        return response

    respx.get(url__regex=r"https://registry.example.com/v2/.*").mock(side_effect=forget_after_a_manifest)
    assert fill(tmp_path, [IMAGE], downloads) == []


def test_only_digests_are_looked_up_when_images_are_not_wanted(
    tmp_path: Path, registry: Registry, downloads: Downloads
) -> None:
    index = registry.add_image("1.2.3", b"layer")
    assert fill(tmp_path, [IMAGE], downloads, images=False) == []
    assert known(tmp_path, IMAGE).digest == index
    assert not (tmp_path / "images").exists()
    assert registry.log == ["manifests/1.2.3"]


def test_a_version_that_is_not_there_is_named_with_what_else_was_fetched(
    tmp_path: Path, registry: Registry, downloads: Downloads
) -> None:
    registry.add_image("1.2.3", b"layer")
    gone = Pin("images", "gone", "registry.example.com/team/gone", "9.9.9")
    (failure,) = fill(tmp_path, [gone, IMAGE], downloads)
    assert (failure.pin, "404" in str(failure.error)) == (gone, True)
    assert known(tmp_path, IMAGE).digest


def test_a_chart_of_a_registry_is_its_archive(tmp_path: Path, registry: Registry, downloads: Downloads) -> None:
    layer = registry.add_blob(b"the archive", CHART)
    registry.add_manifest("1.0.0", {"config": registry.add_blob(b"{}"), "layers": [layer]})
    assert fill(tmp_path, [CHART_PIN], downloads) == []
    assert (tmp_path / "charts/operator-1.0.0.tgz").read_bytes() == b"the archive"
    assert known(tmp_path, CHART_PIN).digest == digest(b"the archive")


@pytest.mark.parametrize("address", ["indexed-2.0.0.tgz", "https://cdn.example.com/indexed-2.0.0.tgz"])
def test_a_chart_of_an_index_is_found_by_its_version(
    tmp_path: Path, router: respx.MockRouter, downloads: Downloads, address: str
) -> None:
    archive = b"the archive"
    entry = f"{{version: 2.0.0, digest: {digest(archive).partition(':')[2]}, urls: [{address}]}}"
    router.get("https://charts.example.com/stable/index.yaml").respond(text=f"entries: {{indexed: [{entry}]}}")
    for url in (f"https://charts.example.com/stable/{address}", address):
        if url.count("https") == 1:
            router.get(url).respond(content=archive)
    assert fill(tmp_path, [INDEXED], downloads) == []
    assert (tmp_path / "charts/indexed-v2.0.0.tgz").read_bytes() == archive


def test_a_chart_that_its_index_does_not_have_is_named(
    tmp_path: Path, router: respx.MockRouter, downloads: Downloads
) -> None:
    router.get("https://charts.example.com/stable/index.yaml").respond(text="entries: {}")
    (failure,) = fill(tmp_path, [INDEXED], downloads)
    assert "has no version v2.0.0" in str(failure.error)


def test_a_manifest_that_differs_is_refused_and_the_old_one_stays(
    tmp_path: Path, router: respx.MockRouter, downloads: Downloads
) -> None:
    route = router.get(MANIFEST.source).respond(content=b"one")
    fill(tmp_path, [MANIFEST], downloads)
    file = tmp_path / MANIFEST.file
    assert file.read_bytes() == b"one"
    file.write_bytes(b"damaged")
    route.respond(content=b"two")
    (failure,) = fill(tmp_path, [known(tmp_path, MANIFEST)], downloads)
    assert isinstance(failure.error, DigestDiffers)
    assert file.read_bytes() == b"damaged"


def test_a_base_is_built_with_our_overlay_on_top(
    tmp_path: Path, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that kept the base alone would bring its shipped passwords back."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, code in (("git", ""), ("kubectl", 'grep -h -A9 "^resources" "$2/kustomization.yaml"')):
        (tools / name).write_text(f"#!/bin/sh\n{code}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    pin = next(pin for pin in read_pins() if pin.name == "kubeflow_pipelines")
    assert (Path(pin.build), pin.overlay) == (FILE.with_name("components") / OVERLAY, OVERLAY)
    assert fill(tmp_path / "mirror", [pin], downloads) == []
    assert pin.source in (tmp_path / "mirror" / pin.file).read_text()


def test_a_way_out_of_https_is_not_followed(tmp_path: Path, router: respx.MockRouter, downloads: Downloads) -> None:
    router.get(MANIFEST.source).respond(302, headers={"Location": "http://files.example.com/all.yaml"})
    router.get("http://files.example.com/all.yaml").respond(content=b"one")
    (failure,) = fill(tmp_path, [MANIFEST], downloads)
    assert "not HTTPS" in str(failure.error)


def test_a_server_that_fails_is_asked_again_a_few_times(
    tmp_path: Path, router: respx.MockRouter, downloads: Downloads
) -> None:
    answers = [httpx.Response(503), httpx.ConnectError("refused"), httpx.Response(200, content=b"one")]
    router.get(MANIFEST.source).mock(side_effect=answers)
    assert fill(tmp_path, [MANIFEST], downloads) == []
    route = router.get("https://github.com/other/operator/v3.0.0/all.yaml").respond(503)
    dead = Pin("manifests", "dead", "https://github.com/other/operator/v3.0.0/all.yaml", "3.0.0")
    (failure,) = fill(tmp_path, [dead], downloads)
    assert isinstance(failure.error, FetchFailed)
    assert route.call_count == 4
    assert "goes on where it stopped" in failure.error.hint


def test_two_pulls_do_not_meet_in_one_folder(tmp_path: Path, downloads: Downloads) -> None:
    from filelock import FileLock

    from slipway.errors import Conflict

    with FileLock(tmp_path / ".lock"), pytest.raises(Conflict, match="somebody else is filling it"):
        fill(tmp_path, [], downloads)


@pytest.mark.parametrize(
    ("harm", "state", "text"),
    [
        ("layer", "differs", "is damaged"),
        ("gone", "missing", "is missing"),
        ("index", "missing", "not in images/index.json"),
        ("other", "differs", "pinned is"),
        ("unknown", "no digest", "nobody has looked"),
    ],
)
def test_a_check_names_what_an_image_lacks(
    tmp_path: Path, registry: Registry, downloads: Downloads, harm: str, state: str, text: str
) -> None:
    registry.add_image("1.2.3", b"layer")
    fill(tmp_path, [IMAGE], downloads)
    pin = known(tmp_path, IMAGE)
    blob = tmp_path / "images/blobs/sha256" / digest(b"layer").partition(":")[2]
    if harm == "layer":
        blob.write_bytes(b"damaged")
    elif harm == "gone":
        blob.unlink()
    elif harm == "index":
        (tmp_path / "images/index.json").unlink()
    elif harm == "other":
        pin = Pin("images", "server", IMAGE.source, "1.2.3", "sha256:" + "b" * 64)
    else:
        pin = IMAGE
    faults = check(tmp_path, [pin])
    assert {fault.state for fault in faults} == {state}
    assert text in faults[0].found


def test_a_check_names_every_chart_and_manifest_that_is_missing_or_differs(tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/operator-1.0.0.tgz").write_bytes(b"x")
    pinned = Pin("charts", "operator", CHART_PIN.source, "1.0.0", "sha256:" + "a" * 64, "operator")
    states = [(fault.pin.key, fault.state) for fault in check(tmp_path, [pinned, INDEXED, MANIFEST])]
    assert states == [
        ("charts.operator", "differs"),
        ("charts.indexed", "missing"),
        ("manifests.definitions", "missing"),
    ]


def test_a_folder_that_is_none_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no such folder"):
        check(tmp_path / "none", [])


def test_the_mirror_and_the_program_agree_on_every_pin_and_its_place() -> None:
    versions = load_versions()
    ours = {pin.key: pin for pin in read_pins()}
    assert set(ours) == {key for key, _ in versions.pins()}
    for key, pin in versions.pins():
        assert ours[key].digest == pin.digest
        if key.startswith("images."):
            assert ours[key].address == pin.address().partition("@")[0]
        else:
            assert ours[key].file == pin.mirror_file  # type: ignore[union-attr]


def test_what_a_mirror_found_is_read_by_the_program(
    tmp_path: Path, router: respx.MockRouter, downloads: Downloads
) -> None:
    pin = next(pin for pin in read_pins() if not pin.digest and pin.source.startswith("docker.io/"))
    found = Registry(router, "registry-1.docker.io").add_image(pin.version, b"layer")
    assert fill(tmp_path, [pin], downloads) == []
    assert load_versions(mirror=tmp_path).image(pin.name).digest == found


def test_pins_without_a_version_are_named_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "versions.toml"
    file.write_text('[charts.a]\nsource = "oci://x"\n[images.b]\ntag = "1"\n')
    with pytest.raises(InvalidSettings) as caught:
        read_pins(file=file)
    assert {"charts.a.version", "images.b.reference"} <= {problem.where for problem in caught.value.problems}


def test_a_plan_lists_every_pin(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["mirror", "plan", str(tmp_path)])
    assert shown.exit_code == 0
    for kind in tomllib.loads(FILE.read_text()).values():
        for name in kind:
            assert re.search(rf"to fetch +\w+\.{name} ", shown.output), name


def test_a_check_of_an_empty_folder_fails_and_says_how_to_fill_it(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["mirror", "check", str(tmp_path)])
    assert shown.exit_code == 1
    total = len(read_pins())
    assert f"{total} of {total} items; slipway mirror pull" in shown.output
