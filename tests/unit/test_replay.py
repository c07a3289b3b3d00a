"""The outside world: whom it asks about, under which ids, what it does about failures, and when it waits."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from pipelines.flight_delay.events import ASKED_AHEAD
from pipelines.flight_delay.replay.barrier import PROCESSES, Barrier
from pipelines.flight_delay.replay.client import ATTEMPTS, Client
from pipelines.flight_delay.replay.player import Plan, Player
from pipelines.flight_delay.replay.questions import Book, Question, choose, read_key
from pipelines.flight_delay.source import read_flights
from slipway import endpoints, tokens
from slipway.contract import load_contract
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, NotReady, SlipwayError
from slipway.labels import PREDICTION_ID
from slipway.ledger import open_ledger, progress
from slipway.request_schema import RequestSchema

DAY = datetime(2013, 3, 1, tzinfo=UTC)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    environment = open_environment(str(file))
    tokens.prepare(environment)
    monkeypatch.setattr(endpoints, "gateway_url", lambda environment: "http://gateway")
    monkeypatch.setattr("pipelines.flight_delay.replay.client.PAUSE_SECONDS", 0.0)
    return environment


@pytest.fixture
def book(environment: Environment) -> Book:
    return Book(environment.state.events / "questions.db")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return choose(read_flights(), DAY, sample=0.05, key=b"a key")


def test_each_flight_asks_one_hour_before_its_departure(questions: list[Question]) -> None:
    everybody = choose(read_flights(), DAY, sample=1.0, key=b"a key")
    asked = read_flights()["scheduled_departure"] - ASKED_AHEAD
    assert len(everybody) == ((asked >= DAY) & (asked < DAY + timedelta(days=1))).sum()
    assert all(DAY <= question.asked_at < DAY + timedelta(days=1) for question in everybody)
    assert [q.asked_at for q in everybody] == sorted(q.asked_at for q in everybody)


def test_ids_are_the_same_again_and_different_under_another_key(questions: list[Question]) -> None:
    assert [q.id for q in choose(read_flights(), DAY, sample=0.05, key=b"a key")] == [q.id for q in questions]
    other = {question.id for question in choose(read_flights(), DAY, sample=1.0, key=b"another key")}
    assert not other & {question.id for question in questions}
    assert all(PREDICTION_ID.fullmatch(question.id) for question in questions)


def test_a_smaller_sample_is_part_of_a_larger_one(questions: list[Question]) -> None:
    larger = choose(read_flights(), DAY, sample=0.4, key=b"a key")
    assert {question.id for question in questions} < {question.id for question in larger}
    assert 0.3 * 920 < len(larger) < 0.5 * 1000


def test_the_key_is_made_once_and_private(environment: Environment) -> None:
    assert read_key(environment) == read_key(environment)
    assert (environment.state.secrets / "replay_key").stat().st_mode & 0o077 == 0


def test_a_request_is_what_the_contract_asks_for(questions: list[Question]) -> None:
    schema = RequestSchema(load_contract("flight_delay"))
    body = {"instances": [q.instance for q in questions], "prediction_ids": [q.id for q in questions]}
    read = schema.read_v1(json.loads(json.dumps(body)))
    assert read.length == len(questions)
    assert read.ids == [question.id for question in questions]
    assert "tail" not in json.dumps(body)


def _gateway(answers: list[int], seen: list[dict[str, object]]) -> httpx.MockTransport:
    """Answers with the statuses in turn, then 200; status 0 breaks the connection."""

    def answer(request: httpx.Request) -> httpx.Response:
        document = json.loads(request.content)
        seen.append({"path": request.url.path, "token": request.headers["authorization"], **document})
        status = answers.pop(0) if answers else 200
        if status == 0:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(status, json={"accepted": 1, "refused": 0}, headers={"x-model-version": "3"})

    return httpx.MockTransport(answer)


def _ask(environment: Environment, book: Book, questions: list[Question], answers: list[int], batch: int = 20):  # type: ignore[no-untyped-def]
    seen: list[dict[str, object]] = []

    async def run() -> int:
        async with Client(environment, book, transport=_gateway(answers, seen)) as client:
            return await client.ask(questions, batch=batch)

    return asyncio.run(run()), seen


def test_answers_are_counted_by_version(environment: Environment, book: Book, questions: list[Question]) -> None:
    failed, seen = _ask(environment, book, questions, [])
    assert failed == 0
    assert {str(call["path"]) for call in seen} == {"/v1/models/flight_delay:predict"}
    assert {str(call["token"]) for call in seen} == {f"Bearer {tokens.read_token(environment, 'predict')}"}
    counts = book.counts()
    assert counts["answered_by_version"] == {"3": len(questions)}
    assert (counts["asked"], counts["failed"]) == (len(questions), 0)


def test_a_failed_request_is_repeated_with_the_same_ids(
    environment: Environment, book: Book, questions: list[Question]
) -> None:
    failed, seen = _ask(environment, book, questions[:5], [503, 0])
    assert failed == 0
    assert len(seen) == 3
    assert seen[0]["prediction_ids"] == seen[2]["prediction_ids"]
    assert book.counts()["attempts"] == 15


def test_questions_without_an_answer_are_counted_as_failed_and_asked_again_later(
    environment: Environment, book: Book, questions: list[Question]
) -> None:
    failed, _ = _ask(environment, book, questions[:5], [503] * ATTEMPTS)
    assert failed == 5
    assert book.counts()["failed"] == 5
    assert _ask(environment, book, questions[:5], [])[0] == 0
    assert book.counts()["failed"] == 0


def test_an_answered_question_is_not_asked_again(
    environment: Environment, book: Book, questions: list[Question]
) -> None:
    _ask(environment, book, questions[:5], [])
    _, seen = _ask(environment, book, questions[:8], [], batch=1)
    assert [call["prediction_ids"] for call in seen] == [[q.id] for q in questions[5:8]]


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_refusal_stops_the_replay(
    environment: Environment, book: Book, questions: list[Question], status: int
) -> None:
    with pytest.raises(SlipwayError, match=str(status)):
        _ask(environment, book, questions[:5], [status])


def _deliver(environment: Environment, book: Book, as_of: datetime, answers: list[int]):  # type: ignore[no-untyped-def]
    seen: list[dict[str, object]] = []

    async def run() -> int:
        async with Client(environment, book, transport=_gateway(answers, seen)) as client:
            return await client.deliver(as_of)

    return asyncio.run(run()), seen


def test_labels_are_delivered_once_and_not_before_they_are_known(
    environment: Environment, book: Book, questions: list[Question]
) -> None:
    _ask(environment, book, questions, [])
    noon = max(DAY + timedelta(hours=17), sorted(q.known_at for q in questions)[3])
    known = [question for question in questions if question.known_at <= noon]
    count, seen = _deliver(environment, book, noon, [])
    assert count == len(known) > 0
    assert {label["prediction_id"] for call in seen for label in call["labels"]} == {q.id for q in known}  # type: ignore[attr-defined]
    assert {str(call["token"]) for call in seen} == {f"Bearer {tokens.read_token(environment, 'labels')}"}
    assert _deliver(environment, book, noon, [])[0] == 0
    assert _deliver(environment, book, noon + timedelta(days=3), [])[0] == len(questions) - len(known)


def test_labels_that_nobody_takes_stop_the_replay_and_stay_due(
    environment: Environment, book: Book, questions: list[Question]
) -> None:
    _ask(environment, book, questions[:4], [])
    later = DAY + timedelta(days=3)
    with pytest.raises(SlipwayError, match="labels could not be delivered"):
        _deliver(environment, book, later, [503] * ATTEMPTS)
    assert _deliver(environment, book, later, [])[0] == 4


def test_the_barrier_names_who_is_behind(environment: Environment) -> None:
    barrier, ledger = Barrier(environment, limit=0.05), open_ledger(environment)
    assert [text.split()[0] for text in barrier.waits(DAY)] == list(PROCESSES)
    with ledger.transaction() as session:
        for process in PROCESSES:
            progress.report(session, process, DAY)
    assert barrier.waits(DAY) == []
    asyncio.run(barrier.wait(DAY))
    with pytest.raises(NotReady, match=r"did not reach 2013-03-01T01.*monitor is at 2013-03-01T00"):
        asyncio.run(barrier.wait(DAY + timedelta(hours=1)))


def test_every_mistake_of_a_plan_is_named(environment: Environment) -> None:
    plan = Plan(
        datetime(2013, 3, 2, 7, tzinfo=UTC), datetime(2012, 3, 1, tzinfo=UTC), sample=1.5, batch=0,
        step=timedelta(minutes=20), speed=-1.0,
    )  # fmt: skip
    with pytest.raises(InvalidInput) as raised:
        Player(environment, plan, lambda moment, text: None)
    named = [problem.where for problem in raised.value.problems]
    assert named == ["--from", "--to", "--to", "--sample", "--batch", "--step", "--speed"]


def test_a_live_clock_is_not_moved(tmp_path: Path) -> None:
    file = tmp_path / "live.toml"
    file.write_text(f'name = "live"\nstate_dir = "{tmp_path / "state"}"\nclock.source = "utc"\n')
    with pytest.raises(InvalidInput, match=r"clock\.source"):
        Player(open_environment(str(file)), Plan(DAY, DAY + timedelta(days=1)), lambda moment, text: None)
