"""Copies of bundles that the contract no longer wants kept."""

from __future__ import annotations

from pathlib import Path

from slipway.ledger import open_ledger, releases
from slipway.retention import Retention
from tests.control_world import DAY, MODEL, START, deliver, make_contract, make_environment


def test_the_oldest_copies_go_but_never_a_version_that_serves(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    ledger = open_ledger(environment)
    for version in range(1, 6):
        (environment.state.bundles / MODEL / str(version)).mkdir(parents=True)
        deliver(ledger, version)
    with ledger.transaction() as session:
        releases.promote(session, MODEL, 1, epoch=0, actor="test", reason="first", as_of=START)
    retention = Retention(environment, ledger)
    contract = make_contract(retention={"bundles": 2})

    gone = {folder.name for folder in retention.sweep(contract, START)}

    assert gone == {"2", "3"}
    assert {folder.name for folder in (environment.state.bundles / MODEL).iterdir()} == {"1", "4", "5"}
    assert retention.sweep(contract, START + DAY) == []


def test_a_day_is_swept_once(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    retention = Retention(environment, open_ledger(environment))
    contract = make_contract(retention={"bundles": 2})
    assert retention.sweep(contract, START) == []
    for version in range(1, 4):
        (environment.state.bundles / MODEL / str(version)).mkdir(parents=True)

    assert retention.sweep(contract, START) == []
    assert [folder.name for folder in retention.sweep(contract, START + DAY)] == ["1"]
