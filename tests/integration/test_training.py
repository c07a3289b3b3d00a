"""Training for real: published flights, the KFP graph, Ray, MLflow behind Envoy, and the runner under supervisord.

The tests are one story in the order of the file: each builds on the versions that stand there already.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.flight_delay.replay.publisher import Publisher
from slipway.bundle import Manifest, fetch_bundle, verify_bundle
from slipway.clock import ReplayClock
from slipway.contract import load_contract
from slipway.endpoints import registry_url
from slipway.environment import VARIABLE, Environment, open_environment
from slipway.ledger import alarms, open_ledger, releases, runs, versions
from slipway.ledger.schema import RunRow
from slipway.registry import Registry
from slipway.signing import public_key_of
from slipway.targets.local import lifecycle, processes
from slipway.targets.local.leftovers import find_leftovers
from slipway.targets.local.supervision import Supervisor

pytestmark = pytest.mark.integration

MODEL = "flight_delay"
AS_OF = datetime(2013, 3, 2, tzinfo=UTC)
NEEDED = ("mlflow", "ray", "portal", "envoy", "runner")
RUN_LIMIT = 420.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Two months of flights published; registry, Ray, gateway and runner running."""
    root = tmp_path_factory.mktemp("training")
    file = root / "environment.toml"
    file.write_text(f'name = "training"\nstate_dir = "{root / "state"}"\n[processes]\nstart_timeout = "300s"\n')
    environment = open_environment(str(file))
    environment.state.prepare()
    ReplayClock(environment.state.clock_file).set(AS_OF)
    Publisher(environment).publish_span(datetime(2013, 1, 1, tzinfo=UTC), AS_OF)
    everything = processes.list_processes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "list_processes", lambda e: [p for p in everything(e) if p.name in NEEDED])
        lifecycle.up(environment, say=lambda text: None, report=lambda name, seconds: None)
        yield environment
        lifecycle.down(environment, say=lambda text: None)
    assert find_leftovers(environment) == []


def train(environment: Environment, key: str, **options: Any) -> RunRow:
    """Ask for a run and wait for its end."""
    number = submit(environment, key, **options)
    return wait_for(environment, number, lambda run: run.state in runs.ENDS)


def submit(environment: Environment, key: str, **options: Any) -> int:
    with open_ledger(environment).transaction() as session:
        return runs.submit(session, key=key, model=MODEL, reason="test", as_of=AS_OF, options=options).id


def wait_for(environment: Environment, number: int, done: Callable[[RunRow], bool]) -> RunRow:
    limit = time.monotonic() + RUN_LIMIT
    while True:
        with open_ledger(environment).read() as session:
            run = runs.read(session, number)
            session.expunge(run)
        if done(run):
            return run
        assert time.monotonic() < limit, f"run {number} is still {run.state} at {run.step}"
        time.sleep(0.3)


def manifest_of(environment: Environment, version: int) -> Manifest:
    folder = fetch_bundle(environment, MODEL, version)
    return verify_bundle(folder, model=MODEL, version=version, public_key=public_key_of(environment))


def contract_with(folder: Path, **training: Any) -> str:
    """The model's contract with other values under `training`, as a file."""
    document = load_contract(MODEL).model_dump(mode="json")
    document["training"] |= training
    file = folder / "contract.yaml"
    file.write_text(json.dumps(document))  # JSON is YAML
    return str(file)


def test_a_broken_unit_is_refused_with_the_column_named(environment: Environment) -> None:
    run = train(environment, "metres", corrupt={"distance": 1609.344})
    assert (run.state, run.step, run.version) == ("refused", "validate", None)
    assert all(problem.startswith("distance: ") for problem in run.outcome["problems"])
    with open_ledger(environment).read() as session:
        assert [alarm.kind for alarm in alarms.list_all(session)] == ["run_refused"]


def test_the_command_line_trains_a_version_that_passes_the_gate(environment: Environment) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("slipway")), "train", MODEL, "--as-of", "2013-03-02"],
        env={**os.environ, VARIABLE: str(environment.file)},
        capture_output=True, text=True, timeout=RUN_LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flight_delay version 1 passed the gate" in done.stdout
    assert "running: train" in done.stdout


def test_the_version_is_a_verified_bundle_with_everything_that_made_it(environment: Environment) -> None:
    manifest = manifest_of(environment, 1)
    assert manifest.gate["verdict"] == "passed"
    assert manifest.metrics["value"] > 0.68
    assert manifest.gate["window"]["start"] == "2013-02-14T00:00:00+00:00"
    assert manifest.training.end < datetime(2013, 2, 12, 12, tzinfo=UTC)
    assert len(manifest.golden.answers) == len(manifest.golden.requests) == 20
    assert all(0 < answer < 1 for answer in manifest.golden.answers)
    with open_ledger(environment).read() as session:
        row = versions.read(session, MODEL, 1)
        assert (row.state, row.digest, row.gate) == ("candidate", manifest.content_digest, manifest.gate)


def test_the_registry_shows_parameters_metrics_and_hashes_only_to_who_has_the_token(environment: Environment) -> None:
    (version,) = Registry(environment).list_versions(MODEL)
    query = {"run_id": version.run_id}
    address = f"{registry_url(environment)}/api/2.0/mlflow/runs/get"
    assert httpx.get(address, params=query).status_code in (401, 403)
    token = (environment.state.secrets / "tokens" / "internal").read_text().strip()
    answer = httpx.get(address, params=query, headers={"Authorization": f"Bearer {token}"}).json()
    data = answer["run"]["data"]
    params = {pair["key"]: pair["value"] for pair in data["params"]}
    tags = {pair["key"]: pair["value"] for pair in data["tags"]}
    manifest = manifest_of(environment, 1)
    assert params["rounds"] == "250"
    assert {"auc", "calibration_error"} <= {pair["key"] for pair in data["metrics"]}
    assert tags["slipway.snapshot_id"] == manifest.snapshot_id
    assert (tags["slipway.code_hash"], tags["slipway.lock_hash"]) == (manifest.code_hash, manifest.lock_hash)


def test_a_repeated_run_reuses_every_step_and_makes_the_same_content(environment: Environment) -> None:
    run = train(environment, "again")
    assert run.state == "succeeded", run.outcome
    reused = {step["step"]: step["reused"] for step in run.outcome["steps"]}
    assert reused == {
        "snapshot": True, "validate": True, "train": True, "evaluate": True, "gate": False, "register": False,
    }  # fmt: skip
    assert run.version == 2
    assert manifest_of(environment, 2).content_digest == manifest_of(environment, 1).content_digest
    assert manifest_of(environment, 2).gate["judged_on_this_window"] == 2


def test_labels_that_say_nothing_are_refused_by_the_gate_and_kept_for_audit(environment: Environment) -> None:
    run = train(environment, "worthless", shuffle_labels=True)
    assert (run.state, run.version) == ("refused", 3)
    assert "auc_floor" in run.outcome["message"]
    with open_ledger(environment).read() as session:
        assert versions.read(session, MODEL, 3).state == "refused"


def test_two_workers_make_a_model_of_the_same_quality(environment: Environment, tmp_path: Path) -> None:
    with open_ledger(environment).transaction() as session:
        releases.promote(session, MODEL, 1, epoch=0, actor="test", reason="test", as_of=AS_OF)
    run = train(environment, "two-workers", contract=contract_with(tmp_path, workers=2))
    assert run.version == 4, run.outcome
    gate = manifest_of(environment, 4).gate
    assert gate["champion"] == 1
    assert abs(gate["difference"]["estimate"]) < 0.005
    assert gate["latency_ratio"] < 3


def test_a_job_past_its_deadline_is_stopped_and_says_so(environment: Environment, tmp_path: Path) -> None:
    run = train(environment, "deadline", contract=contract_with(tmp_path, deadline="4s", seed=9))
    assert (run.state, run.step) == ("failed", "train")
    assert "ran past training.deadline (4 s) and was stopped" in run.outcome["message"]


def test_a_killed_runner_is_restarted_and_its_run_goes_on_to_one_version(
    environment: Environment, tmp_path: Path
) -> None:
    before = len(Registry(environment).list_versions(MODEL))
    number = submit(environment, "killed", contract=contract_with(tmp_path, seed=5))
    wait_for(environment, number, lambda run: run.step == "train")
    time.sleep(3)
    os.kill(Supervisor(environment).read_statuses()["runner"].pid, signal.SIGKILL)
    run = wait_for(environment, number, lambda run: run.state in runs.ENDS)
    assert run.attempts == 2
    assert run.outcome["steps"][0]["reused"], "the finished steps are taken from the cache"
    assert len(Registry(environment).list_versions(MODEL)) == before + 1
    lines = (environment.state.pipelines / "runs" / f"{number}-2" / "progress.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if json.loads(line)["state"] == "begun"][-1] == "register"
