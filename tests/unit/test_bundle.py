"""Bundles: what is written verifies, and whatever was touched is refused before a byte of it is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slipway import signing
from slipway.bundle import Golden, Manifest, TrainingSpan, content_digest, copy_bundle, verify_bundle, write_bundle
from slipway.environment import Environment
from slipway.errors import Refused, SlipwayError
from slipway.settings import Settings

MODEL_TEXT = "tree\nversion=v4\nnum_class=1\n"
MOMENT = datetime(2013, 3, 1, tzinfo=UTC)


def open_environment(root: Path) -> Environment:
    environment = Environment(root / "environment.toml", Settings(name="test", state_dir=root / "state"))
    environment.state.prepare()
    signing.prepare(environment)
    return environment


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return open_environment(tmp_path_factory.mktemp("environment"))


def manifest_of(version: int = 1, created: datetime = MOMENT) -> Manifest:
    return Manifest(
        model="parcels",
        version=version,
        created_as_of=created,
        feature_service="parcels_v1",
        transforms_hash="a" * 64,
        columns=["weight", "distance"],
        code_hash="b" * 64,
        lock_hash="c" * 64,
        snapshot_id="d" * 64,
        training=TrainingSpan(start=MOMENT, end=MOMENT, rows=10),
        metrics={"auc": 0.7},
        gate={"verdict": "passed", "seen": version},
        golden=Golden(requests=[{"weight": 1.0}], features=[{"hubs__load": None}], answers=[0.25]),
    )


def write(environment: Environment, folder: Path, version: int = 1, text: str = MODEL_TEXT) -> Path:
    source = folder.with_name(f"{folder.name}.model")
    source.write_text(text)
    write_bundle(
        folder,
        manifest=manifest_of(version),
        files={"model.txt": source},
        private_key=signing.private_key_of(environment),
    )
    return folder


def verify(environment: Environment, folder: Path, model: str = "parcels", version: int = 1) -> Manifest:
    return verify_bundle(folder, model=model, version=version, public_key=signing.public_key_of(environment))


@pytest.fixture
def bundle(environment: Environment, tmp_path: Path) -> Path:
    return write(environment, tmp_path / "bundle")


def test_a_written_bundle_verifies_and_carries_gate_and_golden(environment: Environment, bundle: Path) -> None:
    manifest = verify(environment, bundle)
    assert manifest.gate == {"verdict": "passed", "seen": 1}
    assert manifest.golden.answers == [0.25]
    assert content_digest(bundle) == manifest.content_digest
    assert sorted(entry.name for entry in bundle.iterdir()) == [
        "gate.json", "golden.json", "manifest.json", "model.txt", "slipway.sig",
    ]  # fmt: skip


def test_the_same_content_under_another_number_has_the_same_digest(environment: Environment, tmp_path: Path) -> None:
    one, two = write(environment, tmp_path / "one", 1), write(environment, tmp_path / "two", 2)
    other = write(environment, tmp_path / "other", 3, MODEL_TEXT + "leaf=1\n")
    assert content_digest(one) == content_digest(two)
    assert content_digest(one) != content_digest(other)


def change_byte(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[-3] ^= 1
        (bundle / name).write_bytes(content)

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


class Explosive:
    """Unpickled, it leaves a trace in the file that `trace` names."""

    trace = ""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (Explosive.trace,)  # type: ignore[return-value]


def put_pickle(name: str) -> Callable[[Path], None]:
    def put(bundle: Path) -> None:
        Explosive.trace = str(bundle.parent / "executed")
        (bundle / name).write_bytes(pickle.dumps(Explosive()))

    return put


def link_model(bundle: Path) -> None:
    outside = bundle.parent / "outside.txt"
    shutil.move(bundle / "model.txt", outside)
    (bundle / "model.txt").symlink_to(outside)


def link_bundle(bundle: Path) -> None:
    shutil.move(bundle, bundle.with_name("elsewhere"))
    bundle.symlink_to(bundle.with_name("elsewhere"))


def pipe_model(bundle: Path) -> None:
    (bundle / "model.txt").unlink()
    os.mkfifo(bundle / "model.txt")


def add_folder(bundle: Path) -> None:
    (bundle / "weights").mkdir()


def add_dotfile(bundle: Path) -> None:
    (bundle / ".gitattributes").write_text("ignored by many hashers")


def traverse(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../../secrets/signing.key"] = manifest["files"].pop("model.txt")
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def swap_signature(bundle: Path) -> None:
    (bundle / "slipway.sig").write_text("{}")


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped_bit_in_the_model": (change_byte("model.txt"), "signature does not hold"),
    "flipped_bit_in_the_manifest": (change_byte("manifest.json"), "signature does not hold"),
    "flipped_bit_in_the_gate_record": (change_byte("gate.json"), "signature does not hold"),
    "flipped_bit_in_the_golden_requests": (change_byte("golden.json"), "signature does not hold"),
    "flipped_bit_in_the_signature": (change_byte("slipway.sig"), "signature does not hold"),
    "empty_signature": (swap_signature, "signature does not hold"),
    "missing_model": (remove("model.txt"), "model.txt is missing"),
    "missing_signature": (remove("slipway.sig"), "slipway.sig is missing"),
    "missing_gate_record": (remove("gate.json"), "gate.json is missing"),
    "extra_file": (put_pickle("extra.txt"), "extra.txt does not belong"),
    "extra_pickle": (put_pickle("model.pkl"), "model.pkl does not belong"),
    "hidden_file": (add_dotfile, ".gitattributes does not belong"),
    "pickle_as_model": (put_pickle("model.txt"), "not in LightGBM's text format"),
    "pickle_as_manifest": (put_pickle("manifest.json"), "signature does not hold"),
    "symlink": (link_model, "model.txt is not a plain file"),
    "symlinked_folder": (link_bundle, "is not a folder"),
    "pipe": (pipe_model, "model.txt is not a plain file"),
    "folder_inside": (add_folder, "weights is not a plain file"),
    "path_traversal": (traverse, "signature does not hold"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_bundle_is_refused_and_nothing_runs(
    environment: Environment, bundle: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, message = HOSTILE[case]
    spoil(bundle)
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("something was unpickled"))
    with pytest.raises(Refused, match=message):
        verify(environment, bundle)
    assert not (bundle.parent / "executed").exists()


def test_a_device_file_is_refused(environment: Environment, bundle: Path) -> None:
    (bundle / "model.txt").unlink()
    try:
        os.mknod(bundle / "model.txt", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this user cannot make device files")
    with pytest.raises(Refused, match=r"model\.txt is not a plain file"):
        verify(environment, bundle)


def test_a_key_of_another_environment_is_refused(environment: Environment, bundle: Path, tmp_path: Path) -> None:
    other = open_environment(tmp_path / "other")
    with pytest.raises(Refused, match="signature does not hold: Key mismatch"):
        verify(other, bundle)


def test_a_manifest_signed_with_other_files_than_it_lists_is_refused(environment: Environment, bundle: Path) -> None:
    traverse(bundle)
    (bundle / "slipway.sig").unlink()
    signing.sign_folder(bundle, signing.private_key_of(environment))
    with pytest.raises(Refused, match="lists other files than the bundle has"):
        verify(environment, bundle)


def test_a_signed_bundle_of_another_name_or_number_is_refused(environment: Environment, bundle: Path) -> None:
    with pytest.raises(Refused, match="this is parcels 1, not parcels 2"):
        verify(environment, bundle, version=2)
    with pytest.raises(Refused, match="this is parcels 1, not letters 1"):
        verify(environment, bundle, model="letters")


def test_a_pickle_is_never_signed(environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not in LightGBM's text format"):
        write(environment, tmp_path / "bundle", text="\x80\x04pickle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_is_never_overwritten(environment: Environment, bundle: Path) -> None:
    with pytest.raises(Refused, match="a bundle is never changed"):
        write(environment, bundle)


def test_a_copy_takes_no_link_and_leaves_nothing(environment: Environment, bundle: Path, tmp_path: Path) -> None:
    copy_bundle(bundle, tmp_path / "copy")
    assert verify(environment, tmp_path / "copy").version == 1
    link_model(bundle)
    with pytest.raises(Refused):
        copy_bundle(bundle, tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".draft", "second"))] == []


_WRITE_WITH_A_FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_bundle import MODEL_TEXT, manifest_of, open_environment
from slipway import signing
from slipway.bundle import write_bundle
root = Path(sys.argv[1])
environment = open_environment(root)
(root / "model").write_text(MODEL_TEXT + "x" * 300_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write_bundle(root / "bundle", manifest=manifest_of(), files={"model.txt": root / "model"},
             private_key=signing.private_key_of(environment))
"""


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_partial(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk; when it is gone, writing goes on."""
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_WITH_A_FULL_DISK, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "SlipwayError" in done.stderr
    assert "the bundle could not be written: File too large" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "state"]
    environment = open_environment(tmp_path)
    assert verify(environment, write(environment, tmp_path / "bundle")).version == 1


def test_an_unwritable_place_is_not_called_a_full_disk(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        write_bundle(
            tmp_path / "file" / "bundle",
            manifest=manifest_of(),
            files={"model.txt": tmp_path / "file"},
            private_key=signing.private_key_of(environment),
        )


def test_the_signing_key_is_private_and_kept(environment: Environment) -> None:
    key = signing.private_key_of(environment)
    assert key.stat().st_mode & 0o777 == 0o600
    before = hashlib.sha256(key.read_bytes()).digest()
    signing.prepare(environment)
    assert hashlib.sha256(key.read_bytes()).digest() == before


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    with pytest.raises(SlipwayError, match="there is no signing key"):
        signing.sign_folder(tmp_path, tmp_path / "none.key")
