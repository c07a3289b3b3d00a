"""The event chain: append-only, verifiable, signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from slipway import signing
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.ledger import Ledger, chain, events, open_ledger
from slipway.pod import Pod
from tests.control_world import MODEL, START, make_environment


@pytest.fixture
def environment(tmp_path: Path, place: Pod | None) -> Environment:
    environment = make_environment(tmp_path, place)
    signing.prepare(environment)
    return environment


@pytest.fixture
def ledger(environment: Environment) -> Iterator[Ledger]:
    """Five events."""
    ledger = open_ledger(environment)
    with ledger.transaction() as session:
        for number in range(5):
            events.record(session, model=MODEL, kind="test", actor="ann", as_of=START, number=number)
    yield ledger
    ledger.close()


def forge(ledger: Ledger, *statements: str) -> None:
    """Change rows behind the ledger's back, as somebody with the file could."""
    with ledger.transaction() as session:
        for trigger in ("event_no_update", "event_no_delete") if ledger.is_sqlite else ("event_append_only ON event",):
            session.execute(text(f"DROP TRIGGER {trigger}"))
        for statement in statements:
            session.execute(text(statement))


def problems_of(ledger: Ledger) -> list[str]:
    with ledger.read() as session:
        return [str(problem) for problem in events.verify(session)]


def test_an_untouched_chain_holds(ledger: Ledger) -> None:
    assert problems_of(ledger) == []


@pytest.mark.parametrize("statement", ["UPDATE event SET kind = 'x' WHERE id = 2", "DELETE FROM event WHERE id = 5"])
def test_the_database_itself_refuses_to_change_an_event(ledger: Ledger, statement: str) -> None:
    with pytest.raises(DatabaseError, match="append-only"), ledger.transaction() as session:
        session.execute(text(statement))


@pytest.mark.parametrize("column", ["model", "kind", "actor", "as_of", "written", "evidence", "before", "digest"])
def test_any_column_changed_is_found(ledger: Ledger, column: str) -> None:
    value = {
        "evidence": '{"number": 7}',
        "as_of": "2013-04-01 00:00:00.000000",
        "written": "2013-04-01 00:00:00.000000",
    }.get(column, "f" * 40)
    forge(ledger, f"UPDATE event SET {column} = '{value}' WHERE id = 3")  # noqa: S608 -- names from the line above
    assert any(problem.startswith(("event 3:", "event 4:")) for problem in problems_of(ledger))


def test_a_removed_event_is_found(ledger: Ledger) -> None:
    forge(ledger, "DELETE FROM event WHERE id = 3")
    assert any("follows event 2" in problem for problem in problems_of(ledger))


def test_an_event_removed_and_the_numbers_closed_up_is_found(ledger: Ledger) -> None:
    forge(ledger, "DELETE FROM event WHERE id = 3", "UPDATE event SET id = id - 1 WHERE id > 3")
    assert problems_of(ledger)


def test_a_chain_that_was_cut_or_rewritten_whole_is_found_by_its_signed_head(
    environment: Environment, ledger: Ledger
) -> None:
    assert chain.sign_head(environment, ledger)
    forge(ledger, "DELETE FROM event WHERE id = 5")
    assert problems_of(ledger) == []  # the chain by itself holds
    with ledger.read() as session:
        (problem,) = chain.verify_head(environment, session)
    assert "rewritten or cut" in problem.message


def test_a_head_signed_by_another_key_is_found(environment: Environment, ledger: Ledger) -> None:
    chain.sign_head(environment, ledger)
    file = chain.head_file(environment)
    head = json.loads(file.read_text())
    file.write_text(json.dumps({**head, "event": 4}))
    with ledger.read() as session:
        (problem,) = chain.verify_head(environment, session)
    assert "signature does not hold" in problem.message


def test_a_head_that_still_stands_is_accepted_when_the_chain_has_grown(
    environment: Environment, ledger: Ledger
) -> None:
    chain.sign_head(environment, ledger)
    with ledger.transaction() as session:
        events.record(session, model=MODEL, kind="test", actor="ann", as_of=START)
    with ledger.read() as session:
        assert chain.verify_head(environment, session) == []


def test_an_export_can_be_verified_without_the_database(
    environment: Environment, ledger: Ledger, tmp_path: Path
) -> None:
    import hashlib

    assert chain.export(environment, ledger, tmp_path / "events.jsonl") == 5
    *lines, last = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    before = events.GENESIS
    for line in lines:
        digest = line.pop("digest")
        assert line["before"] == before
        assert hashlib.sha256(events.canonical_json(line)).hexdigest() == digest
        before = digest
    assert last["head"]["digest"] == before


def test_an_export_without_a_key_says_so(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "other")
    ledger = open_ledger(environment)
    with pytest.raises(SlipwayError, match="no signing key"):
        chain.export(environment, ledger, tmp_path / "events.jsonl")
    assert not (tmp_path / "events.jsonl").exists()
    ledger.close()


def test_evidence_is_stored_as_plain_json(ledger: Ledger) -> None:
    with ledger.transaction() as session:
        row = events.record(
            session, model=MODEL, kind="test", actor="ann", as_of=START, ratio=float("nan"), count=np.int64(3),
            auc=np.float64(0.7), span=timedelta(hours=1), when=START, names={"b", "a"}, file=Path("x"),
        )  # fmt: skip
        assert row.evidence == {
            "ratio": None, "count": 3, "auc": 0.7, "span": 3600.0, "when": START.isoformat(), "names": ["a", "b"],
            "file": "x",
        }  # fmt: skip
        with pytest.raises(TypeError, match="object"):
            events.record(session, model=MODEL, kind="test", actor="ann", as_of=START, odd=object())
    assert problems_of(ledger) == []


def test_the_newest_events_come_in_the_order_in_which_they_happened(ledger: Ledger) -> None:
    with ledger.read() as session:
        assert [row.evidence["number"] for row in events.read(session, MODEL, 2)] == [3, 4]
        assert events.read(session, "other") == []
