"""Reading the inference log: one row for each (prediction, version), and every loss in sight."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from logged_rows import MODEL, START, append, log_and_collect, make_environment, server

from slipway import inference_log
from slipway.collector import Collection
from slipway.collector.parquet import write_parquet
from slipway.environment import Environment
from slipway.inference_log import count_losses, folder_of, read_rows
from slipway.targets import Answers

DAY = timedelta(days=1)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return make_environment(tmp_path)


def ids_of(frame: pd.DataFrame) -> list[str]:
    return frame["id"].tolist()


def test_an_empty_log_reads_as_no_rows_with_the_columns(environment: Environment) -> None:
    frame = read_rows(environment, MODEL, START, START + DAY)
    assert frame.empty
    assert {"id", "version", "delivered", "prediction"} <= set(frame.columns)
    assert str(frame["event_time"].dtype) == "datetime64[us, UTC]"
    assert read_rows(environment, MODEL, START, START + DAY, columns=["prediction"]).columns.tolist() == ["prediction"]


def test_rows_come_back_as_they_were_logged(environment: Environment) -> None:
    log_and_collect(environment, ["a", "b"])
    frame = read_rows(environment, MODEL, START, START + DAY)
    assert ids_of(frame) == ["a", "b"]
    row = frame.iloc[0]
    assert (row["model"], row["version"], row["service"], row["prediction"]) == (MODEL, 1, "flight_delay_v1", 0.25)
    assert (row["event_time"], row["subject_time"]) == (START, START + timedelta(hours=1))
    assert row["in_scheduled_departure"] == START + timedelta(hours=1)
    assert (row["ft_weather__temp"], row["age_weather"]) == (40.0, 600.0)
    assert np.isnan(row["ft_weather__humid"])
    assert str(frame["subject_time"].dtype) == "datetime64[us, UTC]"


def test_a_window_includes_its_start_and_not_its_end(environment: Environment) -> None:
    for number in range(4):
        log_and_collect(environment, [f"day-{number}"], event_time=START + number * DAY)
    frame = read_rows(environment, MODEL, START + DAY, START + 3 * DAY)
    assert ids_of(frame) == ["day-1", "day-2"]


def test_of_a_row_logged_twice_the_delivered_one_is_read(environment: Environment) -> None:
    log_and_collect(environment, ["a"], delivered=False, prediction=0.1)
    log_and_collect(environment, ["a"], delivered=True, prediction=0.2)
    log_and_collect(environment, ["a"], version=2, delivered=False, prediction=0.3)
    frame = read_rows(environment, MODEL, START, START + DAY)
    assert sorted(zip(frame["version"], frame["prediction"], strict=True)) == [(1, 0.2), (2, 0.3)]
    assert read_rows(environment, MODEL, START, START + DAY, versions=[2])["prediction"].tolist() == [0.3]
    assert read_rows(environment, MODEL, START, START + DAY, delivered=True)["version"].tolist() == [1]


def test_a_column_that_no_row_has_comes_as_missing(environment: Environment) -> None:
    log_and_collect(environment, ["a"])
    frame = read_rows(environment, MODEL, START, START + DAY, columns=["id", "ft_other__thing"])
    assert frame.columns.tolist() == ["id", "ft_other__thing"]
    assert frame["ft_other__thing"].isna().all()


def test_versions_with_other_features_are_read_together(environment: Environment) -> None:
    log_and_collect(environment, ["a"])
    with server(environment, 2) as spool:
        append(spool, ["b"])
    folder = folder_of(environment, MODEL) / f"date={START.date()}"
    Collection(environment).take()
    (file,) = [f for f in folder.glob("*.parquet") if pa.parquet.read_table(f)["version"][0].as_py() == 2]
    write_parquet(file, pa.parquet.read_table(file).append_column("ft_new__one", pa.array([7.0])))
    frame = read_rows(environment, MODEL, START, START + DAY).set_index("id")
    assert np.isnan(frame.loc["a", "ft_new__one"])
    assert frame.loc["b", "ft_new__one"] == 7.0


def test_the_documented_query_reads_the_log_in_duckdb_alone(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_and_collect(environment, ["a", "b"])
    log_and_collect(environment, ["a"], delivered=False)
    query = re.search(r"^    (select .*?)\n\n", inference_log.__doc__ or "", re.DOTALL | re.MULTILINE)
    assert query
    monkeypatch.chdir(environment.state.root)
    found = duckdb.sql(query[1]).fetchall()
    assert sorted((row[0], row[3]) for row in found) == [("a", True), ("b", True)]


def test_dropped_rows_and_repeated_rows_are_counted(environment: Environment) -> None:
    with server(environment) as spool:
        append(spool, ["a", "b"])
        spool._max_rows = 0
        append(spool, ["lost", "lost too"])
        spool._max_rows = 100
        append(spool, ["c"])
        append(spool, ["c"])  # the client asked again
        append(spool, ["m"], delivered=False)
    Collection(environment).take()
    counted = count_losses(environment, MODEL, answers={1: Answers(total=6, errors=1)})[1]
    assert (counted.rows, counted.requests, counted.gaps, counted.duplicates) == (4, 3, 2, 1)
    assert counted.unlogged == 2


def test_without_a_gateway_nobody_says_how_many_answers_are_missing(environment: Environment) -> None:
    log_and_collect(environment, ["a"])
    assert count_losses(environment, MODEL)[1].unlogged is None


def test_a_file_merged_away_under_the_reader_is_read_where_it_went(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_and_collect(environment, ["a"])
    files = inference_log._files(environment, MODEL, None)
    moved = Path(files[0]).with_name("merged-1.parquet")
    real, listed = inference_log._files, []

    def list_then_merge(*arguments: object) -> list[str]:
        found = real(*arguments)  # type: ignore[arg-type]
        listed.append(found)
        if len(listed) == 1:
            Path(files[0]).rename(moved)
        return found

    monkeypatch.setattr(inference_log, "_files", list_then_merge)
    assert ids_of(read_rows(environment, MODEL, START, START + DAY)) == ["a"]
    assert len(listed) == 2


def test_two_hundred_thousand_rows_are_read_in_seconds(environment: Environment) -> None:
    log_and_collect(environment, ["a"])
    (file,) = (folder_of(environment, MODEL) / f"date={START.date()}").glob("*.parquet")
    one = pa.parquet.read_table(file)
    for number in range(50):
        rows = 4000
        whole = one.take(pa.array([0] * rows))
        ids = pa.array([f"row-{number}-{row}" for row in range(rows)])
        day = START + number * DAY
        whole = whole.set_column(0, "id", ids).set_column(
            4, "event_time", pa.array([day] * rows, pa.timestamp("us", "UTC"))
        )
        write_parquet(folder_of(environment, MODEL) / f"date={day.date()}" / "many.parquet", whole)
    began = time.process_time()
    frame = read_rows(environment, MODEL, START, START + 50 * DAY)
    assert len(frame) == 200_001
    assert time.process_time() - began < 5
