"""A backup holds everything but secrets; a restore takes nothing from an archive that is not as it was written."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slipway import signing
from slipway.archive import MANIFEST, PUBLIC_KEY, SIGNATURE, fingerprint, sign
from slipway.backup import write_backup
from slipway.environment import Environment
from slipway.errors import InvalidInput, Refused, SlipwayError
from slipway.ledger import events, open_ledger
from slipway.restore import restore_backup
from slipway.settings import Settings


def make_environment(folder: Path, name: str) -> Environment:
    file = folder / f"{name}.toml"
    file.write_text(f'name = "{name}"\n')
    return Environment(file, Settings(name=name, state_dir=folder / name))


@pytest.fixture
def source(tmp_path: Path) -> Environment:
    """An environment with a ledger, a second database, data files, and secrets."""
    environment = make_environment(tmp_path, "source")
    state = environment.state
    state.prepare()
    signing.prepare(environment)
    (state.secrets / "tokens" / "predict").write_text("a-token-that-must-stay-here")
    with open_ledger(environment).transaction() as session:
        events.record(session, model="m", kind="promoted", actor="t", as_of=datetime(2013, 3, 1, tzinfo=UTC), version=1)
    with closing(sqlite3.connect(state.registry / "mlflow.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("create table versions (number integer)")
        database.executemany("insert into versions values (?)", [(number,) for number in range(100)])
        database.commit()
    log = state.inference_log / "model=m" / "date=2013-03-01"
    log.mkdir(parents=True)
    (log / "part.parquet").write_bytes(b"rows")
    (log / ".part.parquet.draft").write_bytes(b"half")
    (state.pipelines / "cache").mkdir()
    (state.pipelines / "cache" / "step").write_text("can be made again")
    (state.logs / "mlflow.log").write_text("a log")
    state.clock_file.write_text("2013-03-01T00:00:00+00:00\n")
    return environment


@pytest.fixture
def target(tmp_path: Path) -> Environment:
    return make_environment(tmp_path, "target")


def read_archive(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        return {entry.name: stream.read() for entry in tar if (stream := tar.extractfile(entry))}


def write_archive(file: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(file, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in entries:
            entry.size = len(data) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(data))


def sign_again(environment: Environment, contents: dict[str, bytes]) -> dict[str, bytes]:
    """The archive as its own signer would have written it: only what is in it can be wrong then."""
    contents[SIGNATURE] = sign(contents[MANIFEST], signing.private_key_of(environment).read_bytes())
    return contents


def plain(contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(tarfile.TarInfo(name), data) for name, data in contents.items()]


def test_a_restored_environment_has_every_file_and_row(
    source: Environment, target: Environment, tmp_path: Path
) -> None:
    backup = write_backup(source, tmp_path / "b.tar.gz")
    restored = restore_backup(target, backup.file, signer=backup.signer)
    assert restored.environment == "source"
    with open_ledger(target).read() as session:
        assert [row.kind for row in events.read(session)] == ["promoted"]
        assert events.verify(session) == []
    with closing(sqlite3.connect(target.state.registry / "mlflow.db")) as database:
        assert database.execute("select count(*) from versions").fetchone() == (100,)
    assert (target.state.inference_log / "model=m/date=2013-03-01/part.parquet").read_bytes() == b"rows"
    assert target.clock.as_of() == datetime(2013, 3, 1, tzinfo=UTC)


def test_an_archive_holds_no_secret_and_nobody_else_can_read_it(source: Environment, tmp_path: Path) -> None:
    file = write_backup(source, tmp_path / "b.tar.gz").file
    assert file.stat().st_mode & 0o777 == 0o600
    contents = read_archive(file)
    assert not [name for name in contents if name.startswith(("secrets", "run", "logs", "pipelines/cache"))]
    assert not [name for name in contents if "draft" in name]
    secrets = [path.read_bytes() for path in source.state.secrets.rglob("*") if path.is_file() and path.stat().st_size]
    private = [secret for secret in secrets if secret != signing.public_key_of(source).read_bytes()]
    assert len(private) >= 2
    assert not [name for name, data in contents.items() for secret in private if secret in data]


def test_the_restored_bundles_key_is_trusted_and_the_own_key_is_new(
    source: Environment, target: Environment, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.txt").write_text("tree")
    signing.sign_folder(bundle, signing.private_key_of(source))
    restore_backup(target, write_backup(source, tmp_path / "b.tar.gz").file)
    signing.prepare(target)
    assert signing.private_key_of(target).read_bytes() != signing.private_key_of(source).read_bytes()
    signing.verify_folder(bundle, signing.public_key_of(target))
    stranger = make_environment(tmp_path, "stranger")
    signing.prepare(stranger)
    with pytest.raises(Refused):
        signing.verify_folder(bundle, signing.public_key_of(stranger))


def test_a_backup_under_load_is_one_consistent_moment_of_each_database(
    source: Environment, target: Environment, tmp_path: Path
) -> None:
    """A writer moves one number between two tables all the time; in every copy their sum is the same."""
    file = source.state.registry / "mlflow.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table a as select 1000 as n")
        database.execute("create table b as select 0 as n")
        database.commit()
    stop, moves = threading.Event(), 0

    def move() -> None:
        nonlocal moves
        with closing(sqlite3.connect(file, timeout=10)) as writer:
            while not stop.is_set():
                writer.execute("update a set n = n - 1")
                writer.execute("update b set n = n + 1")
                writer.commit()
                moves += 1

    thread = threading.Thread(target=move)
    thread.start()
    try:
        backups = [write_backup(source, tmp_path / f"{number}.tar.gz").file for number in range(5)]
    finally:
        stop.set()
        thread.join()
    assert moves > 5
    for number, archive in enumerate(backups):
        place = make_environment(tmp_path, f"t{number}")
        restore_backup(place, archive)
        with closing(sqlite3.connect(place.state.registry / "mlflow.db")) as copy:
            assert copy.execute("select a.n + b.n from a, b").fetchone() == (1000,)


def test_a_file_merged_while_it_is_read_is_found_under_its_new_name(source: Environment, tmp_path: Path) -> None:
    folder = source.state.inference_log / "model=m" / "date=2013-03-01"
    parts = [folder / f"z{number}.parquet" for number in range(3)]
    for part in parts:
        part.write_bytes(part.name.encode())

    def merge(files: int, size: int) -> None:
        if files == 3 and parts[0].exists():  # the folders have been listed by now
            (folder / "merged.parquet").write_bytes(b"".join(part.read_bytes() for part in parts))
            for part in parts:
                part.unlink()

    names = read_archive(write_backup(source, tmp_path / "b.tar.gz", report=merge).file).keys()
    assert "inference_log/model=m/date=2013-03-01/merged.parquet" in names


def test_a_backup_never_overwrites_and_never_lies_inside_what_it_saves(source: Environment, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    with pytest.raises(InvalidInput, match="is there already"):
        write_backup(source, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "precious"
    with pytest.raises(InvalidInput, match="inside the state folder"):
        write_backup(source, source.state.registry / "b.tar.gz")


def test_a_restore_needs_an_empty_environment(source: Environment, target: Environment, tmp_path: Path) -> None:
    file = write_backup(source, tmp_path / "b.tar.gz").file
    target.state.prepare()
    (target.state.events / "mine").write_text("precious")
    with pytest.raises(InvalidInput, match="is not empty"):
        restore_backup(target, file)
    assert (target.state.events / "mine").read_text() == "precious"


def test_another_signer_is_refused_when_one_is_named(source: Environment, target: Environment, tmp_path: Path) -> None:
    file = write_backup(source, tmp_path / "b.tar.gz").file
    with pytest.raises(Refused, match="was signed by"):
        restore_backup(target, file, signer="0" * 32)
    assert not target.state.root.exists()


def _flip_a_row(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    contents["inference_log/model=m/date=2013-03-01/part.parquet"] = b"r0ws"
    return plain(contents)


def _drop_a_file(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    del contents["registry/mlflow.db"]
    return plain(contents)


def _add_a_file(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return plain({"events/extra": b"x", **contents})


def _change_the_manifest(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    contents[MANIFEST] = contents[MANIFEST].replace(b'"source"', b'"sourse"')
    return plain(contents)


def _no_signature(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    del contents[SIGNATURE]
    return plain(contents)


def _a_key_that_is_none(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    contents[PUBLIC_KEY] = b"-----BEGIN PUBLIC KEY-----"
    return plain(contents)


def _climb_out(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [*plain({"registry/../../../outside": b"x"}), *plain(contents)]


def _absolute(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [*plain({"/tmp/slipway-outside": b"x"}), *plain(contents)]


def _a_secret(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [*plain({"secrets/signing.key": b"x"}), *plain(contents)]


def _twice(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [*plain({"clock": b"2099-01-01T00:00:00+00:00\n"}), *plain(contents)]


def _special(kind: bytes, link: str = "") -> Callable[..., list[tuple[tarfile.TarInfo, bytes]]]:
    def build(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
        entry = tarfile.TarInfo("registry/entry")
        entry.type, entry.linkname = kind, link
        return [(entry, b""), *plain(contents)]

    return build


def _extended_header(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [*plain({f"registry/{'n' * 300}": b"x"}), *plain(contents)]


def _a_broken_chain(source: Environment, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """History rewritten before the backup: everything matches but the ledger's own chain."""
    import hashlib

    file = source.state.root / "changed.db"
    file.write_bytes(contents["ledger.db"])
    with closing(sqlite3.connect(file)) as database:
        triggers = [name for (name,) in database.execute("select name from sqlite_master where type = 'trigger'")]
        for name in triggers:
            database.execute(f"drop trigger {name}")
        database.execute("update event set actor = 'somebody else'")
        database.commit()
    contents["ledger.db"] = file.read_bytes()
    manifest = json.loads(contents[MANIFEST])
    digest = hashlib.sha256(contents["ledger.db"]).hexdigest()
    manifest["files"]["ledger.db"] = {"sha256": digest, "size": len(contents["ledger.db"])}
    contents[MANIFEST] = json.dumps(manifest).encode()
    return plain(sign_again(source, contents))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip_a_row, "not as the manifest describes it"),
        (_drop_a_file, "missing from the archive"),
        (_add_a_file, "not as the manifest describes it"),
        (_change_the_manifest, "signature does not hold"),
        (_no_signature, "MANIFEST.sig: missing"),
        (_a_key_that_is_none, "not a public key"),
        (_climb_out, "not a name that a backup has"),
        (_absolute, "not a name that a backup has"),
        (_a_secret, "not a name that a backup has"),
        (_twice, "is there twice"),
        (_special(tarfile.SYMTYPE, "/etc/passwd"), "no plain file"),
        (_special(tarfile.LNKTYPE, "ledger.db"), "no plain file"),
        (_special(tarfile.CHRTYPE), "no plain file"),
        (_special(tarfile.FIFOTYPE), "no plain file"),
        (_special(tarfile.DIRTYPE), "no plain file"),
        (_extended_header, "no plain file"),
        (_a_broken_chain, "was changed after it was written"),
    ],
)  # fmt: skip
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    source: Environment, target: Environment, tmp_path: Path,
    change: Callable[[Environment, dict[str, bytes]], list[tuple[tarfile.TarInfo, bytes]]], message: str,
) -> None:  # fmt: skip
    contents = read_archive(write_backup(source, tmp_path / "b.tar.gz").file)
    write_archive(tmp_path / "hostile.tar.gz", change(source, contents))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Refused, match=message):
        restore_backup(target, tmp_path / "hostile.tar.gz")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_file_is_refused(source: Environment, target: Environment, tmp_path: Path, damage: str) -> None:
    file = write_backup(source, tmp_path / "b.tar.gz").file
    data = file.read_bytes()
    file.write_bytes({"cut": data[: len(data) // 2], "garbage": b"hello" * 99, "empty": b""}[damage])
    with pytest.raises(SlipwayError):
        restore_backup(target, file)
    assert not target.state.root.exists()


def test_an_archive_larger_than_the_disk_is_refused_before_it_fills_it(target: Environment, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("events/bomb")
    entry.size = 1 << 42
    header = entry.tobuf(format=tarfile.GNU_FORMAT)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(header + bytes(1 << 16)))
    with pytest.raises(Refused, match="more files or bytes than this disk can take"):
        restore_backup(target, tmp_path / "bomb.tar.gz")


def test_fingerprints_tell_keys_apart(source: Environment, target: Environment) -> None:
    signing.prepare(target)
    keys = [signing.public_key_of(environment).read_bytes() for environment in (source, target)]
    assert len({fingerprint(key) for key in keys}) == 2
