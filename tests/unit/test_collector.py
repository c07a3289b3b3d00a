"""The collector: a kill at any point neither loses a row nor shows one twice."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from logged_rows import MODEL, START, append, log_and_collect, make_environment, server

from slipway import spool
from slipway.collector import Collection, collection, merging
from slipway.collector import __main__ as process
from slipway.collector import parquet as writing
from slipway.environment import Environment
from slipway.inference_log import count_losses, date_folders, folder_of, read_rows
from slipway.labels import Label, LabelStore
from slipway.ledger import open_ledger, progress

DAY = timedelta(days=1)


class Killed(BaseException):
    """Stands for SIGKILL: nothing below catches it, as nothing catches that."""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return make_environment(tmp_path)


def log(environment: Environment, *requests: list[str], event_time: object = START) -> None:
    with server(environment) as written:
        for ids in requests:
            append(written, ids, event_time=event_time)  # type: ignore[arg-type]
            written.flush()


def spooled(environment: Environment) -> list[Path]:
    return [file for files in spool.list_files(environment.state.spool).values() for file in files]


def files_of(environment: Environment, day: object = START) -> list[Path]:
    return sorted((folder_of(environment, MODEL) / f"date={day.date()}").glob("[!.]*.parquet"))  # type: ignore[attr-defined]


def logged(environment: Environment) -> list[str]:
    return sorted(read_rows(environment, MODEL, START - DAY, START + 30 * DAY)["id"])


def killing(function: Callable[..., object], at: int) -> Callable[..., object]:
    """`function`, killed before its call number `at`."""
    calls = iter(range(1_000_000))

    def wrapper(*arguments: object, **more: object) -> object:
        if next(calls) == at:
            raise Killed
        return function(*arguments, **more)

    return wrapper


def test_taken_rows_are_in_parquet_and_the_spool_is_empty(environment: Environment) -> None:
    log(environment, ["a", "b"], ["c"])
    assert Collection(environment).take() == 3
    assert logged(environment) == ["a", "b", "c"]
    assert spooled(environment) == []


def test_rows_of_one_file_go_to_the_date_of_their_own_event_time(environment: Environment) -> None:
    with server(environment) as written:
        append(written, ["before"], event_time=START.replace(hour=23, minute=59))
        append(written, ["after"], event_time=START.replace(hour=0) + DAY)
    Collection(environment).take()
    assert [str(day) for day in date_folders(folder_of(environment, MODEL))] == ["2013-03-01", "2013-03-02"]
    assert logged(environment) == ["after", "before"]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(
    ("place", "name"),
    [(collection, "write_parquet"), (writing, "sync_folder"), (LabelStore, "register"), (Path, "unlink")],
)
def test_killed_at_any_point_of_taking_the_next_one_finishes(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, place: object, name: str, at: int
) -> None:
    log(environment, ["a", "b"], ["c"], ["d"])
    with monkeypatch.context() as patched:
        patched.setattr(place, name, killing(getattr(place, name), at))
        try:
            Collection(environment).take()
        except Killed:
            pass
        else:
            assert (name, at) in {("register", 1), ("register", 2)}  # it is called once for a model
    Collection(environment).take()
    counted = count_losses(environment, MODEL)[1]
    assert (counted.rows, counted.gaps, counted.duplicates) == (4, 0, 0)
    assert spooled(environment) == []
    store = LabelStore(environment)
    labels = [Label(MODEL, f"unlogged-{id_}", 1, START) for id_ in "a"]
    assert store.add(labels, as_of=START + DAY, source="test").pending == 1
    assert pq.read_table(files_of(environment)[0]).num_rows > 0


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize(("place", "name"), [(merging, "write_parquet"), (writing, "sync_folder"), (Path, "unlink")])
def test_killed_at_any_point_of_merging_the_next_one_finishes(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, place: object, name: str, at: int
) -> None:
    log(environment, ["a"], ["b"], ["c"], ["d"])
    first = Collection(environment)
    first.take()
    with monkeypatch.context() as patched:
        patched.setattr(place, name, killing(getattr(place, name), at))
        try:
            for _ in range(3):
                first.tidy(START + 2 * DAY)
        except Killed:
            pass
    counted = count_losses(environment, MODEL)[1]
    assert (counted.rows, counted.gaps, counted.duplicates) == (4, 0, 0)
    second = Collection(environment)
    second.recover()
    for _ in range(3):
        second.tidy(START + 2 * DAY)
    assert len(files_of(environment)) == 1
    assert pq.read_table(files_of(environment)[0]).num_rows == 4
    assert logged(environment) == ["a", "b", "c", "d"]
    assert list(files_of(environment)[0].parent.glob(".*")) == []


def test_a_file_whose_source_is_still_spooled_is_not_merged(environment: Environment) -> None:
    log(environment, ["a"], ["b"])
    kept = spooled(environment)[0]
    content = kept.read_bytes()
    collected = Collection(environment)
    collected.take()
    kept.write_bytes(content)  # the removal was lost: the file is taken again
    collected.tidy(START + 2 * DAY)
    assert len(files_of(environment)) == 2
    collected.take()
    for _ in range(2):
        collected.tidy(START + 2 * DAY)
    assert len(files_of(environment)) == 1
    assert pq.read_table(files_of(environment)[0]).num_rows == 2


def test_many_small_files_of_a_day_that_goes_on_are_merged(environment: Environment) -> None:
    log(environment, *[[f"row-{number}"] for number in range(merging.MANY)])
    collected = Collection(environment)
    collected.take()
    for _ in range(2):
        collected.tidy(START)
    assert len(files_of(environment)) == 1
    assert len(logged(environment)) == merging.MANY


def test_a_reader_between_merging_and_removing_sees_every_row_once(environment: Environment) -> None:
    log(environment, ["a"], ["b"])
    collected = Collection(environment)
    collected.take()
    collected.tidy(START + 2 * DAY)
    assert len(files_of(environment)) == 3
    assert logged(environment) == ["a", "b"]


def test_a_damaged_spool_file_is_set_aside_and_the_others_are_taken(environment: Environment) -> None:
    log(environment, ["a"], ["b"])
    file = spooled(environment)[0]
    file.write_bytes(file.read_bytes()[:100])
    Collection(environment).take()
    assert logged(environment) == ["b"]
    assert file.with_suffix(".damaged").exists()
    assert count_losses(environment, MODEL)[1].gaps == 1


def test_a_full_disk_leaves_the_spool_and_nothing_partial(environment: Environment) -> None:
    log(environment, ["a", "b"])
    collected = Collection(environment)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            collected.take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(spooled(environment)) == 1
    assert [file for file in folder_of(environment, MODEL).rglob("*") if file.is_file()] == []
    collected.take()
    assert logged(environment) == ["a", "b"]


def test_a_file_has_its_name_only_when_it_is_whole_and_on_disk(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(environment, ["a"])
    real, seen = writing.os.fsync, []

    def look(descriptor: int) -> None:
        seen.append(files_of(environment))
        real(descriptor)

    monkeypatch.setattr(writing.os, "fsync", look)
    Collection(environment).take()
    assert seen[0] == []
    assert len(files_of(environment)) == 1


def test_rows_older_than_the_contract_keeps_are_deleted(environment: Environment) -> None:
    log_and_collect(environment, ["old"])
    log_and_collect(environment, ["new"], event_time=START + DAY)
    collected = Collection(environment)
    collected.recover()
    collected.tidy(START + 401 * DAY)
    assert [str(day) for day in date_folders(folder_of(environment, MODEL))] == ["2013-03-02"]


def test_collected_predictions_are_known_to_the_label_store(environment: Environment) -> None:
    log_and_collect(environment, ["row-0001"])
    early = Label(MODEL, "row-0001", 1, START - timedelta(seconds=1))
    outcome = LabelStore(environment).add([early], as_of=START + DAY, source="test")
    assert [problem.message for problem in outcome.problems] == ["2013-03-01T11:59:59Z is before the prediction"]


def test_progress_is_reported_when_event_time_moves_and_everything_is_in(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.clock import ReplayClock

    with server(environment) as written:
        clock = ReplayClock(environment.state.clock_file)
        clock.set(START)
        stop = threading.Event()
        silent: list[list[str]] = [[f"{MODEL}-1"], []]

        def flush_all(_: object) -> list[str]:
            written.flush()
            return silent.pop(0) if silent else []

        monkeypatch.setattr(process.Flushing, "flush_all", flush_all)
        append(written, ["a"])
        thread = threading.Thread(target=process.run, args=(environment, stop))
        thread.start()
        try:
            ledger = open_ledger(environment)
            for _ in range(600):
                with ledger.read() as session:
                    reached = progress.read(session).get("collector")
                if reached == START:
                    break
                stop.wait(0.05)
            assert reached == START
            assert silent == []  # a server that did not flush held the report back
            assert logged(environment) == ["a"]
        finally:
            stop.set()
            thread.join(timeout=30)
