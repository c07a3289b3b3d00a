"""One small platform with real processes: killed at random points, with parts down, worked by hand, saved and restored.

SLIPWAY_KILL_DRAWS says how many random draws of `kill -9` there are; the first three kill the controller, the
champion's server and the registry.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slipway.bundle import fetch_bundle, verify_bundle
from slipway.contract import load_contract
from slipway.inference_log import read_rows
from slipway.ledger import events, progress, releases, versions
from slipway.signing import public_key_of
from slipway.targets.local.leftovers import find_leftovers
from tests.e2e.kill_draws import UNHEARD, Draw, Rollout, may_end_either_way
from tests.e2e.small_platform import (
    Asked,
    SmallPlatform,
    flight,
    make_environment,
    run_platform,
    slipway,
    wait,
)
from tests.integration.flight_revision import MODEL, publish_values

pytestmark = pytest.mark.e2e

DRAWS = int(os.environ.get("SLIPWAY_KILL_DRAWS", "3"))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallPlatform]:
    with run_platform(tmp_path_factory.mktemp("kills")) as platform:
        yield platform
    assert find_leftovers(platform.environment) == []


@pytest.mark.parametrize("seed", range(DRAWS))
def test_a_process_killed_at_any_point_of_a_rollout_changes_nothing_about_its_end(
    platform: SmallPlatform, seed: int
) -> None:
    draw = Draw.of(seed)
    rollout = Rollout(platform, draw)
    row = rollout.play()
    platform.wait_until_settled()
    after, before = platform.release(), rollout.before
    if not draw.good or not may_end_either_way(draw, row):
        assert row.state == ("done" if draw.good else "aborted"), row.reason
    if row.state == "done":
        assert (after.champion, after.previous, after.epoch) == (rollout.challenger, before.champion, before.epoch + 1)
    else:
        assert row.state == "aborted"
        assert (after.champion, after.previous, after.epoch) == (before.champion, before.previous, before.epoch)
    with platform.ledger.read() as session:
        ended = versions.read(session, MODEL, rollout.challenger)
    assert ended.state == ("champion" if row.state == "done" else "rolled_back")
    platform.check_one_verified_champion()
    if draw.victim in UNHEARD:
        assert rollout.failures == []


# Parts that are down


@pytest.mark.parametrize("part", ["mlflow", "collector", "controller"])
def test_predictions_go_on_while_a_part_is_down_and_nothing_of_them_is_lost(platform: SmallPlatform, part: str) -> None:
    champion = platform.release().champion
    begun = platform.now()
    with platform.stopped(part):
        asked = platform.ask(40)
        assert (asked.failures, asked.answers) == ([], {champion: 40})
    platform.move_clock(timedelta(hours=1))
    wait(lambda: reached(platform, "collector") >= platform.now(), 60, "the collector")
    logged = read_rows(platform.environment, MODEL, begun, platform.now(), delivered=True)
    assert set(asked.ids) <= set(logged["id"])


def test_a_server_that_dies_while_the_registry_is_down_comes_back_from_its_kept_bundle(platform: SmallPlatform) -> None:
    champion = platform.release().champion
    with platform.stopped("mlflow"):
        platform.kill(f"revision-{MODEL}-{champion}")
        wait(lambda: champion in platform.ask(4, rows=1).answers, 60, "an answer of the champion")


def test_predictions_go_on_without_the_feature_store_and_the_defaults_are_counted(platform: SmallPlatform) -> None:
    platform.move_clock(timedelta(hours=1))
    publish_values(platform.environment, platform.now())
    assert platform.ask(8, rows=1).defaults == 0
    # What SQLite's readers lock, taken by somebody else: no reader gets in.
    with (platform.environment.state.features / "online.db-shm").open("rb+") as shared:
        fcntl.lockf(shared, fcntl.LOCK_EX, 8, 120)
        asked = platform.ask(8, rows=1)
    assert (asked.failures, asked.defaults) == ([], 8 * 5)
    wait(lambda: platform.ask(4, rows=1).defaults == 0, 60, "an answer with features")


# What people type


def test_models_are_listed_and_shown(platform: SmallPlatform) -> None:
    (listed,) = typed(platform, "model", "list")
    release = platform.release()
    assert (listed["model"], listed["champion"], listed["state"]) == (MODEL, release.champion, "served")
    shown = typed(platform, "model", "show", MODEL)
    assert [row["version"] for row in shown["versions"] if row["state"] == "champion"] == [release.champion]
    assert shown["contract"]["rollout"]["steps"] == [10, 50]
    assert typed(platform, "releases", MODEL)["release"]["epoch"] == release.epoch


def test_a_prediction_and_its_label_go_in_by_file(platform: SmallPlatform, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [flight(3, platform.now())]}))
    answer = typed(platform, "predict", MODEL, "--file", str(request))
    assert answer["version"] == platform.release().champion
    assert 0 < answer["predictions"][0] < 1
    labels = tmp_path / "labels.csv"
    line = f"{answer['prediction_ids'][0]},1,{platform.now().isoformat()}"
    labels.write_text(f"prediction_id,value,known_at\n{line}\n")
    assert typed(platform, "label", MODEL, "--file", str(labels))["accepted"] == 1
    assert typed(platform, "label", MODEL, "--file", str(labels))["repeated"] == 1


def test_a_wrong_request_gets_the_same_text_by_command_line_and_by_http(
    platform: SmallPlatform, tmp_path: Path
) -> None:
    wrong = {"instances": [flight(3, platform.now()) | {"flight": -1, "distance": "far"}]}
    request = tmp_path / "request.json"
    request.write_text(json.dumps(wrong))
    said = slipway(platform.environment, "predict", MODEL, "--file", str(request), expect=2)
    with platform.client("predict") as client:
        answer = client.post(f"/v1/models/{MODEL}:predict", json=wrong)
    assert answer.status_code == 422
    problems = answer.json()["problems"]
    assert {problem["where"] for problem in problems} == {"instances.0.flight", "instances.0.distance"}
    for problem in problems:
        assert f"{problem['where']}: {problem['message']}" in said
        assert f"hint: {problem['hint']}" in said


def test_monitors_examine_the_span_that_a_person_names(platform: SmallPlatform) -> None:
    window = f"{platform.now() - timedelta(days=7):%Y-%m-%d}/{platform.now():%Y-%m-%d}"
    found = typed(platform, "monitor", MODEL, "--window", window, "--kind", "freshness", "--kind", "performance")
    assert {finding["kind"] for finding in found} == {"freshness", "performance"}
    assert not any(finding["stored"] for finding in found)


def test_a_promotion_and_a_rollback_by_hand_lose_no_request_and_freeze_until_resume(platform: SmallPlatform) -> None:
    before, promoted = platform.release(), platform.register()
    platform.announce(promoted)
    load = Load(platform)
    with load:
        after = typed(platform, "promote", MODEL, str(promoted), "--reason", "a test")
        assert (after["champion"], after["previous"]) == (promoted, before.champion)
        wait(lambda: promoted in load.asked.answers, 30, "an answer of the promoted version")
        back = typed(platform, "rollback", MODEL, "--reason", "it was only a test")
        assert (back["champion"], back["epoch"], back["frozen"]) == (before.champion, before.epoch + 2, True)
    assert load.asked.failures == []
    said = slipway(platform.environment, "promote", MODEL, str(promoted), "--reason", "again", expect=1)
    assert "was rolled back before" in said
    assert typed(platform, "resume", MODEL)["frozen"] is False
    platform.wait_until_settled()
    platform.check_one_verified_champion()
    with platform.ledger.read() as session:
        kinds = [event.kind for event in events.read(session, MODEL, 3)]
    assert kinds == ["promoted", "rolled_back", "resumed"]


def test_the_chain_of_events_holds(platform: SmallPlatform) -> None:
    checked = typed(platform, "events", MODEL, "--verify")
    assert checked["problems"] == []
    with platform.ledger.read() as session:
        assert checked["events"] == events.count(session)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("promote", MODEL, "999", "--reason", "x"), f"{MODEL} version: 999 does not exist"),
        (("rollback", MODEL, "--to", "999", "--reason", "x"), f"{MODEL} version: 999 does not exist"),
        (("predict", "parcels", "--file", "x.json"), "model: 'parcels' does not exist"),
        (("train", MODEL, "--as-of", "yesterday"), "--as-of: 'yesterday' is not a moment"),
        (("replay", MODEL, "--from", "spring", "--to", "2013-03-02"), "spring"),
        (("monitor", MODEL, "--window", "2013-03-07"), "2013-03-07"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_wrong_use_is_one_message_with_a_hint_and_exit_2(
    platform: SmallPlatform, arguments: tuple[str, ...], told: str
) -> None:
    said = slipway(platform.environment, *arguments, expect=2)
    assert told in said
    assert "hint: " in said


def test_an_unknown_feature_service_is_wrong_use_of_train(platform: SmallPlatform, tmp_path: Path) -> None:
    document = load_contract(MODEL).model_dump(mode="json")
    document["features"]["service"] = "flight_delay_v0"
    contract = tmp_path / "contract.yaml"
    contract.write_text(json.dumps(document))
    said = slipway(platform.environment, "train", MODEL, "--contract", str(contract), expect=2)
    assert "features.service: 'flight_delay_v0' does not exist" in said
    assert "hint: one of: flight_delay_early, flight_delay_v1" in said


# The last one ends the platform


def test_a_backup_under_load_is_the_same_platform_elsewhere(platform: SmallPlatform, tmp_path: Path) -> None:
    with Load(platform) as load:
        written = typed(platform, "backup", str(tmp_path / "backup.tar.gz"))
    assert load.asked.failures == []
    release, answers = platform.release(), golden_answers(platform)
    slipway(platform.environment, "down")
    elsewhere = make_environment(tmp_path, "elsewhere")
    slipway(elsewhere, "restore", str(tmp_path / "backup.tar.gz"), "--signer", written["signer"])
    try:
        slipway(elsewhere, "up")
        restored = SmallPlatform(elsewhere)
        restored.wait_until_settled()
        found = restored.release()
        assert (found.champion, found.previous, found.epoch) == (release.champion, release.previous, release.epoch)
        verify_every_version(restored)
        restored.check_one_verified_champion()
        assert golden_answers(restored) == answers
        assert typed(restored, "model", "archive", MODEL, "--reason", "the end of the test")["state"] == "archived"
        wait(lambda: not restored.ask(4, rows=1).answers, 60, "the end of answers")
        restored.ledger.close()
    finally:
        slipway(elsewhere, "down")
    assert find_leftovers(elsewhere) == []


class Load:
    """Asks all the time, in a thread, until the block ends."""

    def __init__(self, platform: SmallPlatform) -> None:
        self._platform, self._ended = platform, threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.asked = Asked()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.is_set():
            self.asked.add(self._platform.ask(10, rows=1))


def typed(platform: SmallPlatform, *arguments: str) -> Any:
    """The facts that a command prints with --json."""
    return json.loads(slipway(platform.environment, *arguments, "--json"))


def reached(platform: SmallPlatform, process: str) -> Any:
    with platform.ledger.read() as session:
        return progress.read(session)[process]


def golden_answers(platform: SmallPlatform) -> list[float]:
    """What the champion answers to its own golden requests, through the gateway."""
    champion = platform.release().champion or 0
    golden = platform.manifest_of(champion).golden
    with platform.client("predict") as client:
        answer = client.post(f"/v1/models/{MODEL}:predict", json={"instances": golden.requests})
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, str(champion))
    predictions: list[float] = answer.json()["predictions"]
    assert len(predictions) == len(golden.answers)
    return predictions


def verify_every_version(platform: SmallPlatform) -> None:
    """The digest of each version that was ever registered is the one that the ledger knows."""
    environment = platform.environment
    with platform.ledger.read() as session:
        known = versions.list_all(session, MODEL)
        assert releases.read(session, MODEL) is not None
    for row in known:
        assert platform.manifest_of(row.version).content_digest == row.digest
    folder = fetch_bundle(environment, MODEL, platform.release().champion or 0)
    verify_bundle(folder, model=MODEL, version=int(folder.name), public_key=public_key_of(environment))
