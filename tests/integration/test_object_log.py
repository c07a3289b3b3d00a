"""The inference log in an object store: from a server's memory to rows that are read back, through an S3 server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from slipway import pod as pods
from slipway.environment import Environment
from slipway.inference_log import count_losses, date_folders, folder_of, read_rows
from slipway.object_path import ObjectPath
from slipway.pod import Pod
from slipway.spool import list_files
from tests.postgres_server import PostgresServer
from tests.s3_server import credentials, s3_server

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from logged_rows import MODEL, START, append, make_environment, server

from slipway.collector import Collection

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pod")
    with s3_server() as server, PostgresServer() as postgres:
        for name, text in credentials(server).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / pods.DATABASE).mkdir()
        (folder / pods.DATABASE / "url").write_text(postgres.make_database())
        yield folder


@pytest.fixture(scope="module")
def environment(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("scratch"), Pod(secrets))


def log(environment: Environment, *requests: list[str], day: int = 0) -> None:
    with server(environment) as written:
        for ids in requests:
            append(written, ids, event_time=START + day * DAY)
            written.flush()


def test_rows_go_from_a_server_to_the_reader_once_whatever_is_taken_again(environment: Environment) -> None:
    log(environment, ["a", "b"], ["c"])
    assert [len(files) for files in list_files(environment.state.spool).values()] == [2]
    # As after a kill between writing the rows and removing what they came from.
    with pytest.MonkeyPatch.context() as patch, closing(Collection(environment)) as killed:
        patch.setattr(ObjectPath, "unlink", lambda *_, **__: None)
        killed.recover()
        assert killed.take() == 3
    with closing(Collection(environment)) as collection:
        collection.recover()
        assert collection.take() == 3
    assert not [file for files in list_files(environment.state.spool).values() for file in files]
    frame = read_rows(environment, MODEL, START, START + DAY, columns=["id", "prediction", "never"])
    assert sorted(frame["id"]) == ["a", "b", "c"]
    assert frame["never"].isna().all()
    assert str(read_rows(environment, MODEL, START, START + DAY)["event_time"].dtype) == "datetime64[us, UTC]"
    losses = count_losses(environment, MODEL, answers={})[1]
    assert (losses.rows, losses.gaps, losses.duplicates) == (3, 0, 0)


def test_a_day_that_is_over_becomes_one_file_and_an_old_one_goes(environment: Environment) -> None:
    log(environment, ["d"], ["e"], day=1)
    with closing(Collection(environment)) as collection:
        collection.take()
        collection.tidy(START + 2 * DAY)
        collection.tidy(START + 2 * DAY)  # what was merged is removed one pass later
        folder = date_folders(folder_of(environment, MODEL))[(START + DAY).date()]
        assert len(list(folder.glob("[!.]*.parquet"))) == 1
        assert sorted(read_rows(environment, MODEL, START + DAY, START + 2 * DAY)["id"]) == ["d", "e"]
        collection.tidy(START + 5000 * DAY)
        assert date_folders(folder_of(environment, MODEL)) == {}
