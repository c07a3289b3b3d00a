"""The commands for releases, rollouts and events, as a person types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipway import cli, rollout, signing, targets
from slipway.environment import VARIABLE, open_environment
from slipway.errors import Refused
from slipway.ledger import Ledger, events, open_ledger, releases, rollouts, versions
from slipway.ledger.schema import VersionRow
from slipway.targets import Traffic
from tests.control_world import MODEL, START, FileTarget, deliver, make_contract, release_of, set_clock

Run = Callable[..., "Outcome"]


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def target(tmp_path: Path) -> FileTarget:
    return FileTarget(tmp_path / "target.json")


@pytest.fixture
def ledger(tmp_path: Path, target: FileTarget, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Versions 1 and 2 were promoted, 2 is champion and answers, 1 is kept warm; 3 is a candidate."""
    file = tmp_path / "test.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    monkeypatch.setenv(VARIABLE, str(file))
    monkeypatch.setattr(targets, "open_target", lambda _: target)
    environment = open_environment()
    ledger = open_ledger(environment)
    signing.prepare(environment)
    set_clock(environment, START)
    for version in (1, 2, 3):
        deliver(ledger, version)
        target.apply_revision(MODEL, version)
    with ledger.transaction() as session:
        for version in (1, 2):
            releases.promote(session, MODEL, version, epoch=version - 1, actor="controller", reason="x", as_of=START)
    target.set_traffic(MODEL, Traffic(champion=2, previous=1))
    yield ledger
    ledger.close()


@pytest.fixture
def slipway(ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Types a command line."""

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["slipway", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
            raise SystemExit(0)
        said = capsys.readouterr()
        return Outcome(int(end.value.code or 0), said.out, said.err)

    return run


def test_releases_shows_champion_and_versions(slipway: Run) -> None:
    facts = slipway("releases", MODEL, "--json").facts
    assert (facts["release"]["champion"], facts["release"]["epoch"]) == (2, 2)
    assert [version["state"] for version in facts["versions"]] == ["retired", "champion", "candidate"]
    assert "champion" in slipway("releases", MODEL).out


@pytest.mark.parametrize(
    "words",
    [
        ("releases", "nope"), ("rollback", "nope", "--reason", "x"), ("promote", "nope", "1", "--reason", "x"),
        ("rollout", "show", "nope"), ("resume", "nope"), ("events", "nope"),
    ],
)  # fmt: skip
def test_an_unknown_model_is_wrong_use_and_answered_with_those_that_exist(slipway: Run, words: tuple[str, ...]) -> None:
    outcome = slipway(*words)
    assert outcome.code == 2
    assert "'nope' does not exist" in outcome.err
    assert MODEL in outcome.err


def test_an_unknown_version_is_wrong_use_and_answered_with_those_that_exist(slipway: Run) -> None:
    for words in (("promote", MODEL, "9"), ("rollback", MODEL, "--to", "9")):
        outcome = slipway(*words, "--reason", "x")
        assert (outcome.code, "one of: 1, 2, 3" in outcome.err) == (2, True)


def test_a_rollback_moves_the_traffic_itself_and_freezes(slipway: Run, ledger: Ledger, target: FileTarget) -> None:
    outcome = slipway("rollback", MODEL, "--reason", "odd answers", "--json")
    assert outcome.code == 0, outcome.err
    assert (outcome.facts["champion"], outcome.facts["frozen"]) == (1, True)
    assert outcome.facts["switch_seconds"] < 5
    assert target.read_traffic(MODEL) == Traffic(champion=1)
    with ledger.read() as session:
        event = events.read(session, MODEL)[-1]
    assert (event.kind, event.evidence["reason"]) == ("rolled_back", "odd answers")
    assert slipway("resume", MODEL).code == 0
    assert not slipway("releases", MODEL, "--json").facts["release"]["frozen"]


def test_a_rollback_starts_a_server_that_is_not_running_before_it_switches(
    slipway: Run, ledger: Ledger, target: FileTarget
) -> None:
    target.remove_revision(MODEL, 1)
    assert slipway("rollback", MODEL, "--reason", "odd").code == 0
    assert target.list_revisions(MODEL)[1]


def test_a_rollback_to_a_version_that_does_not_start_changes_nothing(
    slipway: Run, ledger: Ledger, target: FileTarget
) -> None:
    target.remove_revision(MODEL, 1)
    target.set(broken=[1])
    outcome = slipway("rollback", MODEL, "--reason", "odd")
    assert (outcome.code, "does not start" in outcome.err) == (1, True)
    assert release_of(ledger) == (2, 1, 2)
    assert target.read_traffic(MODEL) == Traffic(champion=2, previous=1)


def test_a_reason_is_asked_for_and_cannot_be_empty(slipway: Run, ledger: Ledger) -> None:
    assert slipway("rollback", MODEL).code == 2
    assert slipway("rollback", MODEL, "--reason", "  ").code == 2
    assert release_of(ledger) == (2, 1, 2)


def test_a_promotion_by_hand_is_an_override_of_a_verified_bundle(
    slipway: Run, ledger: Ledger, target: FileTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(rollout, "_verify", lambda _, row: seen.append(row.version))
    assert slipway("promote", MODEL, "3", "--reason", "urgent").code == 0
    assert seen == [3]
    assert release_of(ledger) == (3, 2, 3)
    assert target.read_traffic(MODEL) == Traffic(champion=3, previous=2)


def test_an_unverified_bundle_is_never_promoted(
    slipway: Run, ledger: Ledger, target: FileTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, row: VersionRow) -> None:
        raise Refused(f"{row.version}: the signature does not hold")

    monkeypatch.setattr(rollout, "_verify", refuse)
    outcome = slipway("promote", MODEL, "3", "--reason", "urgent", "--unblock")
    assert (outcome.code, "signature" in outcome.err) == (1, True)
    assert release_of(ledger) == (2, 1, 2)
    assert target.history == [[2, None, 0]]


def test_rolled_back_content_needs_a_word_of_its_own(
    slipway: Run, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "_verify", lambda *_: None)
    slipway("rollback", MODEL, "--reason", "odd")
    refused = slipway("promote", MODEL, "2", "--reason", "was fine after all")
    assert (refused.code, "--unblock" in refused.err) == (1, True)
    assert slipway("promote", MODEL, "2", "--reason", "was fine after all", "--unblock").code == 0
    assert release_of(ledger)[0] == 2


def test_a_rollout_is_shown_paused_resumed_and_aborted(slipway: Run, ledger: Ledger, target: FileTarget) -> None:
    refused = slipway("rollout", "pause", MODEL)
    assert (refused.code, "'toy' does not exist" in refused.err) == (2, True)  # there was never one
    with ledger.transaction() as session:
        rollouts.begin(session, MODEL, 3, plan=make_contract().rollout, reason="test", as_of=START)
    assert slipway("rollout", "pause", MODEL).code == 0
    assert slipway("rollout", "show", MODEL, "--json").facts[0]["state"] == "pending (paused)"
    assert slipway("rollout", "resume", MODEL).code == 0
    target.set_traffic(MODEL, Traffic(champion=2, challenger=3, percent=10, previous=1))
    assert slipway("rollout", "abort", MODEL, "--reason", "odd").code == 0
    assert target.read_traffic(MODEL) == Traffic(champion=2, previous=1)
    (shown,) = slipway("rollout", "show", MODEL, "--json").facts
    assert (shown["state"], shown["reason"]) == ("aborted", "odd")
    with ledger.read() as session:
        assert versions.read(session, MODEL, 3).state == "rolled_back"
    assert slipway("rollout", "abort", MODEL).code == 1


def test_events_are_shown_verified_and_exported(slipway: Run, ledger: Ledger, tmp_path: Path) -> None:
    assert [event["kind"] for event in slipway("events", MODEL, "--json", "--limit", "2").facts] == ["promoted"] * 2
    assert "promoted" in slipway("events", MODEL).out
    assert "the chain holds" in slipway("events", MODEL, "--verify").out
    assert slipway("events", MODEL, "--export", str(tmp_path / "events.jsonl")).code == 0
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])["head"]["signature"]


def test_a_broken_chain_is_a_failure(slipway: Run, ledger: Ledger) -> None:
    from sqlalchemy import text

    with ledger.transaction() as session:
        session.execute(text("DROP TRIGGER event_no_update"))
        session.execute(text("UPDATE event SET actor = 'nobody' WHERE id = 2"))
    outcome = slipway("events", MODEL, "--verify")
    assert (outcome.code, "event 2: was changed" in outcome.err) == (1, True)
