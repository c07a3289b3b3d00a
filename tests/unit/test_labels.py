"""Labels: one for each prediction, in bounded time, corrections kept beside what they correct."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipway.environment import Environment
from slipway.errors import InvalidInput, SlipwayError, Unknown
from slipway.label_file import read_labels
from slipway.labels import Label, LabelStore, judged_at
from slipway.pod import Pod
from slipway.settings import Settings

MODEL = "flight_delay"
ASKED = datetime(2013, 3, 1, 12, tzinfo=UTC)
DEPARTURE = ASKED + timedelta(hours=1)
LANDED = ASKED + timedelta(hours=4)
NOW = ASKED + timedelta(hours=6)
ID = "flight-0001"


@pytest.fixture
def store(tmp_path: Path, place: Pod | None) -> Iterator[LabelStore]:
    settings = Settings(name="test", state_dir=tmp_path / "state")
    environment = Environment(tmp_path / "environment.toml", settings, place)
    environment.state.prepare()
    store = LabelStore(environment)
    store.register(MODEL, [(ID, ASKED, DEPARTURE)])
    yield store
    store.close()


def label(value: int = 1, known_at: datetime = LANDED, *, id_: str = ID, correction: bool = False) -> Label:
    return Label(MODEL, id_, value, known_at, correction)


def test_of_many_that_label_one_prediction_at_once_one_is_believed(store: LabelStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(
            threads.map(
                lambda n: store.add([label(known_at=LANDED + timedelta(minutes=n))], as_of=NOW, source="api"), range(8)
            )
        )
    assert sorted(outcome.accepted for outcome in outcomes) == [0] * 7 + [1]
    assert values(store) == {ID: 1}


def values(store: LabelStore, known_by: datetime = NOW) -> dict[str, int]:
    frame = store.read(MODEL, known_by=known_by)
    return dict(zip(frame["id"], frame["value"], strict=True))


def test_a_label_is_kept_once_and_said_again_changes_nothing(store: LabelStore) -> None:
    first = store.add([label()], as_of=NOW, source="api")
    again = store.add([label(), label()], as_of=NOW + timedelta(days=1), source="api")
    assert (first.accepted, first.repeated, first.problems) == (1, 0, [])
    assert (again.accepted, again.repeated, again.problems) == (2, 2, [])
    assert values(store) == {ID: 1}
    assert store.read(MODEL, known_by=NOW)["known_at"].tolist() == [LANDED]


def test_a_second_different_label_is_refused_unless_it_is_a_correction(store: LabelStore) -> None:
    store.add([label(1)], as_of=NOW, source="api")
    forged = store.add([label(0)], as_of=NOW, source="api")
    assert forged.accepted == 0
    assert [str(problem) for problem in forged.problems] == [
        "labels.0.prediction_id: flight-0001 has the label 1 already\n"
        "  hint: set `correction` to true if that was wrong"
    ]
    assert values(store) == {ID: 1}


def test_two_different_labels_in_one_call_leave_the_first(store: LabelStore) -> None:
    outcome = store.add([label(1), label(0)], as_of=NOW, source="api")
    assert (outcome.accepted, len(outcome.problems)) == (1, 1)
    assert values(store) == {ID: 1}


def test_a_correction_counts_from_when_it_was_said_and_leaves_a_trace(store: LabelStore) -> None:
    store.add([label(1)], as_of=NOW, source="api")
    later = NOW + timedelta(hours=3)
    corrected = store.add([label(0, correction=True)], as_of=later, source="file fixes.csv")
    assert corrected.accepted == 1
    assert values(store, known_by=later) == {ID: 0}
    assert values(store, known_by=NOW) == {ID: 1}
    assert [(row["revision"], row["value"], row["source"]) for row in store.corrections(MODEL)] == [
        (0, 1, "api"),
        (1, 0, "file fixes.csv"),
    ]


def test_a_correction_of_nothing_is_refused(store: LabelStore) -> None:
    outcome = store.add([label(correction=True)], as_of=NOW, source="api")
    assert [problem.where for problem in outcome.problems] == ["labels.0.correction"]
    assert values(store) == {}


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (label(known_at=NOW + timedelta(seconds=1)), "known_at"),
        (label(known_at=ASKED - timedelta(seconds=1)), "known_at"),
        (label(known_at=LANDED.replace(tzinfo=None)), "known_at"),
        (label(2), "value"),
        (label(id_="short"), "prediction_id"),
        (label(id_="'; drop table label; --"), "prediction_id"),
    ],
    ids=["future", "before the prediction", "no time zone", "no class", "short id", "hostile id"],
)
def test_a_label_that_breaks_a_rule_is_refused_and_the_others_count(
    store: LabelStore, wrong: Label, where: str
) -> None:
    fine = label(id_="flight-0002")
    outcome = store.add([wrong, fine], as_of=NOW, source="api")
    assert [problem.where for problem in outcome.problems] == [f"labels.0.{where}"]
    assert outcome.accepted == 1
    assert values(store) == {"flight-0002": 1}


def test_a_label_of_an_unlogged_prediction_waits_and_counts_when_the_row_comes(store: LabelStore) -> None:
    outcome = store.add([label(id_="flight-0002")], as_of=NOW, source="api")
    assert outcome.pending == 1
    assert store.unmatched(MODEL, received_before=NOW + timedelta(hours=1))["id"].tolist() == ["flight-0002"]
    store.register(MODEL, [("flight-0002", ASKED, DEPARTURE)])
    assert store.unmatched(MODEL, received_before=NOW + timedelta(hours=1)).empty
    assert values(store) == {"flight-0002": 1}


def test_a_label_known_before_its_prediction_came_to_light_is_used_by_nobody(store: LabelStore) -> None:
    store.add([label(id_="flight-0002", known_at=ASKED - timedelta(hours=1))], as_of=NOW, source="api")
    store.register(MODEL, [("flight-0002", ASKED, DEPARTURE)])
    assert values(store) == {}


def test_a_label_after_its_cohort_was_judged_is_accepted_as_late(store: LabelStore) -> None:
    due = judged_at(DEPARTURE, timedelta(hours=36))
    assert due == datetime(2013, 3, 3, 12, tzinfo=UTC)
    assert store.add([label()], as_of=due + timedelta(seconds=1), source="api").late == 1


def test_the_same_prediction_registered_again_keeps_what_was_said_of_it(store: LabelStore) -> None:
    store.add([label()], as_of=NOW, source="api")
    store.register(MODEL, [(ID, ASKED, DEPARTURE)])
    assert values(store) == {ID: 1}


def test_a_label_of_an_unknown_model_is_refused(store: LabelStore) -> None:
    with pytest.raises(Unknown, match="no_such_model"):
        store.add([Label("no_such_model", ID, 1, LANDED)], as_of=NOW, source="api")


def test_reading_chosen_ids_and_moments_takes_only_those(store: LabelStore) -> None:
    many = [f"flight-{number:04d}" for number in range(2000)]
    store.add([label(number % 2, id_=id_) for number, id_ in enumerate(many)], as_of=NOW, source="api")
    assert len(store.read(MODEL, ids=many[:1500], known_by=NOW)) == 1500
    assert store.read(MODEL, known_by=NOW, known_from=LANDED + timedelta(seconds=1)).empty
    assert store.read(MODEL, known_by=NOW - timedelta(seconds=1)).empty


def test_a_thousand_labels_take_less_than_a_tenth_of_a_second(store: LabelStore) -> None:
    ids = [f"flight-{number:05d}" for number in range(5000)]
    store.register(MODEL, [(id_, ASKED, DEPARTURE) for id_ in ids])
    spent = []
    for start in range(0, 5000, 1000):
        began = time.process_time()
        outcome = store.add([label(id_=id_) for id_ in ids[start : start + 1000]], as_of=NOW, source="api")
        spent.append(time.process_time() - began)
        assert (outcome.accepted, outcome.pending) == (1000, 0)
    assert min(spent) < 0.1


@pytest.mark.parametrize("place", [None], ids=["sqlite"])
def test_a_full_disk_is_said_clearly_and_leaves_nothing(store: LabelStore) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(SlipwayError, match="could not be written"):
            store.add([label()], as_of=NOW, source="api")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert values(store) == {}
    assert store.add([label()], as_of=NOW, source="api").accepted == 1


def test_a_batch_that_is_too_large_is_refused_whole(store: LabelStore) -> None:
    outcome = store.add([label()] * 10_001, as_of=NOW, source="api")
    assert (outcome.accepted, [problem.where for problem in outcome.problems]) == (0, ["labels"])


def test_a_label_file_is_read_line_by_line_with_every_mistake(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(
        "prediction_id,value,known_at,correction\n"
        "flight-0001,1,2013-03-01T16:00:00Z,\n"
        "flight-0002,7,yesterday,\n"
        "flight-0003,0,2013-03-01T16:00:00Z,true\n"
    )
    lines = tmp_path / "labels.jsonl"
    lines.write_text(
        '{"prediction_id": "flight-0001", "value": 1, "known_at": "2013-03-01T16:00:00+00:00"}\n\n'
        "not json\n"
        '{"prediction_id": "flight-0002", "value": 1, "known_at": "2013-03-01T16:00:00Z", "when": 3}\n'
    )
    found = read_labels(table, MODEL)
    assert found.labels == [label(), label(0, id_="flight-0003", correction=True)]
    assert found.names == ["labels.csv:2", "labels.csv:4"]
    assert [problem.where for problem in found.problems] == ["labels.csv:3.value", "labels.csv:3.known_at"]
    found = read_labels(lines, MODEL)
    assert found.labels == [label()]
    assert [problem.where for problem in found.problems] == ["labels.jsonl:3", "labels.jsonl:4.when"]


@pytest.mark.parametrize("name", ["labels.txt", "absent.csv"])
def test_a_label_file_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "labels.txt").write_text("x")
    with pytest.raises(InvalidInput):
        read_labels(tmp_path / name, MODEL)
