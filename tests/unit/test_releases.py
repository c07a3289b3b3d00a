"""The release row: compare-and-set, rollback, blocked content, overrides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy.orm import Session

from slipway.errors import Conflict, Refused, SlipwayError, Unknown
from slipway.ledger import Ledger, events, migration, open_ledger, releases, rollouts, runs, versions
from slipway.ledger.schema import ReleaseRow
from slipway.pod import Pod
from tests.control_world import MODEL, START, deliver, make_contract, make_environment, release_of


@pytest.fixture
def ledger(tmp_path: Path, place: Pod | None) -> Iterator[Ledger]:
    ledger = open_ledger(make_environment(tmp_path, place))
    yield ledger
    ledger.close()


@pytest.fixture
def three(ledger: Ledger) -> Ledger:
    """Versions 1, 2 and 3 were promoted in turn; 3 is champion at epoch 3."""
    for version in (1, 2, 3):
        deliver(ledger, version)
        with ledger.transaction() as session:
            promote(session, version, version - 1)
    return ledger


def promote(session: Session, version: int, epoch: int, **options: bool) -> ReleaseRow:
    return releases.promote(
        session, MODEL, version, epoch=epoch, actor="controller", reason="test", as_of=START, **options
    )


def roll_back(session: Session, to: int | None = None, epoch: int | None = None) -> ReleaseRow:
    return releases.roll_back(session, MODEL, to=to, epoch=epoch, actor="ann", reason="odd", as_of=START)


def states_of(ledger: Ledger) -> dict[int, str]:
    with ledger.read() as session:
        return {row.version: row.state for row in versions.list_all(session, MODEL)}


def test_a_promotion_makes_the_champion_the_previous_one(three: Ledger) -> None:
    assert release_of(three) == (3, 2, 3)
    assert states_of(three) == {1: "retired", 2: "retired", 3: "champion"}


def test_a_stale_epoch_loses(three: Ledger) -> None:
    deliver(three, 4)
    with pytest.raises(Conflict, match="epoch 2 is not the current one"), three.transaction() as session:
        promote(session, 4, 2)
    with pytest.raises(Conflict), three.transaction() as session:
        roll_back(session, epoch=2)
    assert release_of(three) == (3, 2, 3)


def test_a_rollback_brings_the_previous_version_back_and_freezes_and_blocks(three: Ledger) -> None:
    with three.transaction() as session:
        release = roll_back(session)
    assert (release.champion, release.previous, release.epoch, release.frozen) == (2, 1, 4, True)
    assert states_of(three) == {1: "retired", 2: "champion", 3: "rolled_back"}
    with three.read() as session:
        assert versions.is_blocked(session, MODEL, f"{3:064d}")
        event = events.read(session, MODEL)[-1]
    assert (event.kind, event.actor) == ("rolled_back", "ann")
    assert (event.evidence["version"], event.evidence["to"], event.evidence["reason"]) == (3, 2, "odd")


def test_a_rolled_back_version_never_becomes_previous_again(three: Ledger) -> None:
    deliver(three, 4)
    with three.transaction() as session:
        roll_back(session)  # 3 goes
        releases.resume(session, MODEL, actor="ann", as_of=START)
        promote(session, 4, 4)
        release = roll_back(session)  # 4 goes, 2 is back
    assert (release.champion, release.previous) == (2, 1)


def test_a_rollback_passes_over_a_previous_version_of_the_same_content(three: Ledger) -> None:
    deliver(three, 4, digest=f"{3:064d}")
    with three.transaction() as session:
        promote(session, 4, 3)
        release = roll_back(session)
    assert (release.champion, release.previous) == (2, 1)


def test_rollbacks_end_where_there_is_no_older_version(three: Ledger) -> None:
    with three.transaction() as session:
        roll_back(session)
        roll_back(session)
    assert release_of(three)[:2] == (1, None)
    with pytest.raises(Refused, match="no older version"), three.transaction() as session:
        roll_back(session)


def test_a_rollback_can_name_its_version(three: Ledger) -> None:
    with three.transaction() as session:
        roll_back(session, to=1)
    assert release_of(three) == (1, None, 4)


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [(3, Refused, "is the champion already"), (4, Refused, "is candidate"), (9, Unknown, "'?9'? does not exist")],
)
def test_a_rollback_goes_to_a_former_champion_only(
    three: Ledger, to: int, error: type[SlipwayError], message: str
) -> None:
    deliver(three, 4)
    with pytest.raises(error, match=message), three.transaction() as session:
        roll_back(session, to=to)
    assert release_of(three) == (3, 2, 3)


def test_an_unknown_version_is_answered_with_those_that_exist(three: Ledger) -> None:
    with pytest.raises(Unknown, match="one of: 1, 2, 3"), three.transaction() as session:
        promote(session, 9, 3)


def test_a_frozen_model_is_not_promoted_by_automation_until_resume(three: Ledger) -> None:
    deliver(three, 4)
    with three.transaction() as session:
        roll_back(session)
    with pytest.raises(Refused, match="slipway resume toy"), three.transaction() as session:
        promote(session, 4, 4)
    with three.transaction() as session:
        releases.resume(session, MODEL, actor="ann", as_of=START)
        promote(session, 4, 4)
    assert release_of(three) == (4, 2, 5)


def test_a_version_that_the_gate_refused_is_promoted_by_a_recorded_override_only(three: Ledger) -> None:
    deliver(three, 4, passed=False)
    with pytest.raises(Refused, match="the gate refused it"), three.transaction() as session:
        promote(session, 4, 3)
    with three.transaction() as session:
        promote(session, 4, 3, override=True)
    with three.read() as session:
        assert events.read(session, MODEL, kind="promoted")[-1].evidence["override"] is True


def test_rolled_back_content_is_refused_under_every_number_even_to_an_override(three: Ledger) -> None:
    with three.transaction() as session:
        roll_back(session)
    deliver(three, 4, digest=f"{3:064d}")
    assert states_of(three)[4] == "refused"
    for version in (3, 4):
        with pytest.raises(Refused, match="was rolled back before"), three.transaction() as session:
            promote(session, version, 4, override=True)


def test_a_person_can_take_a_mistaken_rollback_back_by_saying_so(three: Ledger) -> None:
    with three.transaction() as session:
        roll_back(session)
        promote(session, 3, 4, override=True, unblock=True)
    assert states_of(three)[3] == "champion"
    with three.read() as session:
        assert not versions.is_blocked(session, MODEL, f"{3:064d}")
        assert events.read(session, MODEL)[-1].evidence["unblock"] is True


def test_a_rollback_ends_an_open_rollout_and_does_not_blame_its_challenger(three: Ledger) -> None:
    deliver(three, 4)
    with three.transaction() as session:
        rollouts.begin(session, MODEL, 4, plan=make_contract().rollout, reason="test", as_of=START)
        roll_back(session)
    with three.read() as session:
        assert rollouts.open_for(session, MODEL) is None
    assert states_of(three)[4] == "candidate"


def test_an_abort_by_hand_blocks_the_challenger(three: Ledger) -> None:
    deliver(three, 4)
    with three.transaction() as session:
        rollouts.begin(session, MODEL, 4, plan=make_contract().rollout, reason="test", as_of=START)
        rollouts.abort(session, MODEL, actor="ann", reason="odd", as_of=START)
    assert states_of(three)[4] == "rolled_back"


def test_only_one_rollout_is_open_for_a_model(three: Ledger) -> None:
    deliver(three, 4)
    deliver(three, 5)
    plan = make_contract().rollout
    with three.transaction() as session:
        rollouts.begin(session, MODEL, 4, plan=plan, reason="test", as_of=START)
    with pytest.raises(Conflict, match="in progress"), three.transaction() as session:
        rollouts.begin(session, MODEL, 5, plan=plan, reason="test", as_of=START)


def test_a_rollout_moved_by_two_is_moved_once(three: Ledger) -> None:
    deliver(three, 4)
    with three.transaction() as session:
        seen = rollouts.begin(session, MODEL, 4, plan=make_contract().rollout, reason="test", as_of=START)
    with three.transaction() as session:
        rollouts.move(session, seen, "starting", as_of=START)
    with three.read() as session:
        stale = rollouts.require_open(session, MODEL)
    stale.state = "pending"
    with pytest.raises(Conflict, match="changed by somebody else"), three.transaction() as session:
        rollouts.move(session, stale, "starting", as_of=START)


def test_the_same_version_registered_twice_is_one_row_and_other_content_is_a_conflict(three: Ledger) -> None:
    with three.transaction() as session:
        versions.add(session, MODEL, 3, digest=f"{3:064d}", gate={}, passed=True, as_of=START)
    assert states_of(three)[3] == "champion"
    with pytest.raises(Conflict, match="immutable"), three.transaction() as session:
        versions.add(session, MODEL, 3, digest="f" * 64, gate={}, passed=True, as_of=START)


def test_an_archived_model_is_not_promoted(three: Ledger) -> None:
    deliver(three, 4)
    with three.transaction() as session:
        releases.archive(session, MODEL, actor="ann", reason="retired product", as_of=START)
    with pytest.raises(Refused, match="is archived"), three.transaction() as session:
        promote(session, 4, 3)


def _race(ledger: Ledger, attempts: list[Callable[[Session], object]]) -> list[str]:
    """All at once, each in its own connection; what became of each."""
    ready, outcomes = threading.Barrier(len(attempts)), [""] * len(attempts)

    def run(number: int, attempt: Callable[[Session], object]) -> None:
        own = Ledger(ledger.url)
        ready.wait()
        try:
            with own.transaction() as session:
                attempt(session)
            outcomes[number] = "won"
        except SlipwayError as error:
            outcomes[number] = type(error).__name__
        own.close()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(attempts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_sixteen_promotes_and_rollbacks_at_once_one_wins_its_epoch(three: Ledger) -> None:
    for version in range(4, 12):
        deliver(three, version)
    attempts: list[Callable[[Session], object]] = [
        lambda session, version=version: promote(session, version, 3) for version in range(4, 12)
    ]
    attempts += [lambda session: roll_back(session, epoch=3)] * 8
    outcomes = _race(three, attempts)
    assert sorted(outcomes) == ["Conflict"] * 15 + ["won"]
    assert release_of(three)[2] == 4
    with three.read() as session:
        assert events.verify(session) == []
        replaced = [
            event.evidence["replaced_epoch"] for event in events.read(session, MODEL) if "epoch" in event.evidence
        ]
    assert replaced == [0, 1, 2, 3]


def test_the_same_run_asked_for_ten_times_at_once_is_one_run(ledger: Ledger) -> None:
    attempts: list[Callable[[Session], object]] = [
        lambda session: runs.submit(session, key="same", model=MODEL, reason="test", as_of=START)
    ] * 10
    assert _race(ledger, attempts) == ["won"] * 10
    with ledger.read() as session:
        assert len(runs.list_all(session)) == 1
        assert len(events.read(session, MODEL, kind="run_submitted")) == 1


def test_a_response_lost_after_the_commit_is_harmless(ledger: Ledger) -> None:
    with ledger.transaction() as session:
        first = runs.submit(session, key="same", model=MODEL, reason="test", as_of=START)
        claimed = runs.claim(session)
        assert claimed is not None
        runs.finish(session, first.id, "succeeded", version=1)
    with ledger.transaction() as session:
        again = runs.finish(session, first.id, "succeeded", version=1)
        assert (again.id, again.version) == (first.id, 1)
    with pytest.raises(Conflict), ledger.transaction() as session:
        runs.finish(session, first.id, "failed")


def test_a_run_whose_runner_died_is_taken_up_again_and_not_for_ever(ledger: Ledger) -> None:
    with ledger.transaction() as session:
        runs.submit(session, key="same", model=MODEL, reason="test", as_of=START)
    claims = []
    for _ in range(runs.MOST_ATTEMPTS + 1):
        with ledger.transaction() as session:
            run = runs.claim(session)
            claims.append(run.attempts if run else None)
    assert claims == [1, 2, 3, None]
    with ledger.read() as session:
        assert runs.list_all(session)[0].state == "failed"


class ReleaseMachine(RuleBasedStateMachine):
    """Whatever is done in whatever order, a small model of the rules in plain Python agrees with the ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger("sqlite://")  # one connection, in memory
        migration._upgrade(self.ledger)
        self.epoch, self.champion, self.frozen = 0, None, False
        self.states: dict[int, str] = {}
        self.digests: dict[int, str] = {}

    def teardown(self) -> None:
        self.ledger.close()

    @initialize()
    def first(self) -> None:
        self.deliver(0, True)
        self.promote(1, False, False, 0)

    @rule(content=st.integers(0, 5), passed=st.booleans())
    def deliver(self, content: int, passed: bool) -> None:
        version, digest = len(self.states) + 1, f"{content:064d}"
        deliver(self.ledger, version, digest=digest, passed=passed)
        self.digests[version] = digest
        self.states[version] = "candidate" if passed and not self._blocked(digest) else "refused"

    @precondition(lambda self: self.states)
    @rule(pick=st.integers(1, 30), override=st.booleans(), unblock=st.booleans(), late=st.sampled_from([0, 0, 0, 1]))
    def promote(self, pick: int, override: bool, unblock: bool, late: int) -> None:
        version = 1 + pick % len(self.states)
        allowed = (
            not late
            and version != self.champion
            and (unblock or not self._blocked(self.digests[version]))
            and (override or self.states[version] != "refused")
            and (override or not self.frozen)
        )
        done = self._attempt(lambda s: promote(s, version, self.epoch - late, override=override, unblock=unblock))
        assert done == allowed
        if done:
            if unblock:
                for other, digest in self.digests.items():
                    if digest == self.digests[version] and self.states[other] == "rolled_back":
                        self.states[other] = "retired"
            if self.champion:
                self.states[self.champion] = "retired"
            self.states[version], self.champion, self.epoch = "champion", version, self.epoch + 1

    @rule(to=st.none() | st.integers(1, 30))
    def roll_back(self, to: int | None) -> None:
        champion = self.champion
        target = self._default_target() if to is None else 1 + to % len(self.states)
        allowed = (
            target is not None
            and champion is not None
            and self.states[target] == "retired"
            and self.digests[target] != self.digests[champion]
            and not self._blocked(self.digests[target])
        )
        asked = None if to is None else target
        assert self._attempt(lambda session: roll_back(session, to=asked)) == allowed
        if allowed and champion and target:
            self.states[champion], self.states[target] = "rolled_back", "champion"
            self.champion, self.epoch, self.frozen = target, self.epoch + 1, True

    @rule()
    def resume(self) -> None:
        with self.ledger.transaction() as session:
            releases.resume(session, MODEL, actor="ann", as_of=START)
        self.frozen = False

    @invariant()
    def agrees_with_the_ledger(self) -> None:
        if self.epoch == 0:
            return
        champion, previous, epoch = release_of(self.ledger)
        assert (champion, epoch) == (self.champion, self.epoch)
        assert states_of(self.ledger) == self.states
        assert previous is None or (previous != champion and self.states[previous] != "rolled_back")
        with self.ledger.read() as session:
            assert events.verify(session) == []

    def _blocked(self, digest: str) -> bool:
        return any(self.states[v] == "rolled_back" and d == digest for v, d in self.digests.items() if v in self.states)

    def _default_target(self) -> int | None:
        """`previous` if it is of use, else the newest of use below it."""
        previous = release_of(self.ledger)[1]
        if previous is None or self.champion is None:
            return None
        for version in range(previous, 0, -1):
            content = self.digests[version]
            is_other = content != self.digests[self.champion] and not self._blocked(content)
            if self.states[version] == "retired" and is_other:
                return version
        return None

    def _attempt(self, change: Callable[[Session], object]) -> bool:
        try:
            with self.ledger.transaction() as session:
                change(session)
        except (Refused, Conflict):
            return False
        return True


TestReleaseMachine = ReleaseMachine.TestCase
TestReleaseMachine.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
