"""The steps' own rules, and how a component reaches its step: in this process, or in the warm server."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import execution
from pipelines.scoring import plain_rows
from pipelines.steps.validate import check_request
from pipelines.task import BadSnapshot, Run, Task
from pipelines.variations import apply_variations
from slipway.contract import Contract, load_contract
from slipway.environment import VARIABLE, Environment
from slipway.errors import InvalidContract, InvalidInput, NotReady, Problem, Refused, SlipwayError, Unknown
from slipway.settings import Settings
from slipway.snapshots import digest_of, keep_snapshot, read_snapshot, write_rows

# A server whose steps are plays: no slow library is imported, so that a test takes a second.
_SERVER = """
import os, signal, sys, time, types
from pathlib import Path
from pipelines import execution, step_server
plays = {
    "answer": lambda task: {"pid": os.getpid(), "rows": 3},
    "die": lambda task: os.kill(os.getpid(), signal.SIGKILL),
    "linger": lambda task: (Path(task.inputs["trace"]).write_text(str(os.getpid())), time.sleep(60)),
}
execution.STEPS = tuple(plays)
for name, play in plays.items():
    module = types.ModuleType(f"pipelines.steps.{name}")
    module.facts, module.perform = (lambda task: None), play
    sys.modules[module.__name__] = module
step_server._SLOW = ()
step_server.IDLE_SECONDS = float(sys.argv[2])
step_server.serve(Path(sys.argv[1]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    environment = Environment(file, Settings(name="test", state_dir=tmp_path / "state"))
    environment.state.prepare()
    return environment


def start_server(environment: Environment, idle: float) -> tuple[subprocess.Popen[bytes], Path]:
    path = environment.state.sockets / "steps.sock"
    variables = {**os.environ, VARIABLE: str(environment.file)}
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(path), str(idle)], env=variables)
    limit = time.monotonic() + 30
    while not path.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    return server, path


@pytest.fixture
def server(environment: Environment) -> Iterator[Path]:
    process, path = start_server(environment, idle=60)
    yield path
    process.terminate()
    process.wait(10)


def request(environment: Environment, step: str, **inputs: str) -> dict[str, Any]:
    run = Run(1, "run-1", "flight_delay", datetime(2013, 3, 1, tzinfo=UTC), None, {}).to_json()
    return {"step": step, "environment": str(environment.file), "run": run, "inputs": inputs, "outputs": {}}


def ask(server: Path, environment: Environment, step: str, **inputs: str) -> dict[str, Any]:
    return execution._ask(str(server), request(environment, step, **inputs))


def test_each_step_runs_in_a_child_of_its_own(server: Path, environment: Environment) -> None:
    answers = [ask(server, environment, "answer") for _ in range(2)]
    assert [answer["values"]["rows"] for answer in answers] == [3, 3]
    assert answers[0]["values"]["pid"] != answers[1]["values"]["pid"]


def test_the_servers_socket_is_for_this_user_only(server: Path) -> None:
    assert stat.S_IMODE(server.stat().st_mode) == 0o600


def test_a_step_whose_process_dies_is_worth_another_attempt(server: Path, environment: Environment) -> None:
    answer = ask(server, environment, "die")
    assert answer["error"]["outcome"] == "again"
    assert "SIGKILL" in answer["error"]["message"]
    assert "values" in ask(server, environment, "answer")


def test_a_step_ends_when_nobody_waits_for_it_any_more(server: Path, environment: Environment, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server))
        connection.sendall(json.dumps(request(environment, "linger", trace=str(trace))).encode() + b"\n")
        child = _wait_for(lambda: int(trace.read_text()) if trace.exists() and trace.read_text() else None)
    _wait_for(lambda: None if Path(f"/proc/{child}").exists() else True)
    assert "values" in ask(server, environment, "answer")


def _wait_for(look: Any, seconds: float = 10) -> Any:
    limit = time.monotonic() + seconds
    while (seen := look()) is None:
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)
    return seen


def test_a_server_that_nobody_asks_ends_itself(environment: Environment) -> None:
    process, path = start_server(environment, idle=0.2)
    assert process.wait(10) == 0
    assert not path.exists()


def test_a_server_that_is_gone_is_not_ready(environment: Environment) -> None:
    answer = ask(environment.state.sockets / "none.sock", environment, "answer")
    assert answer["error"]["outcome"] == "again"


def test_the_server_ends_with_its_parent(environment: Environment) -> None:
    command = "[sys.executable, '-m', 'pipelines.step_server', sys.argv[1]]"
    code = f"import sys, time; from pipelines.groups import start_group; start_group({command}, {{}}); time.sleep(60)"
    path = environment.state.sockets / "orphan.sock"
    variables = {**os.environ, VARIABLE: str(environment.file)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(path)], env=variables)
    _wait_for(lambda: path.exists() or None, 30)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    _wait_for(lambda: None if any(Path(f"/proc/{child}/root").exists() for child in children) else True)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BadSnapshot(Problem("distance", "outside")), "refused"),
        (Refused("too few rows"), "refused"),
        (NotReady("ray: no answer"), "again"),
        (SlipwayError("out of time"), "failed"),
        (InvalidContract(Problem("gate.margin", "below 0")), "failed"),
        (MemoryError("no more"), "failed"),
    ],
)
def test_an_error_says_whether_the_run_is_refused_failed_or_worth_another_attempt(
    error: Exception, outcome: str
) -> None:
    described = execution.describe(error)
    assert described["outcome"] == outcome
    assert bool(described["traceback"]) == (not isinstance(error, SlipwayError))


def test_a_component_without_a_server_runs_its_step_itself_and_notes_its_end(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = tmp_path / "progress.jsonl"
    monkeypatch.setenv(execution.PROGRESS, str(progress))
    monkeypatch.delenv(execution.SERVER, raising=False)
    run = request(environment, "x")["run"] | {"model": "nothing"}
    with pytest.raises(SystemExit, match="'nothing' does not exist"):
        execution.perform("validate", str(environment.file), run, {}, {})
    begun, ended = (json.loads(line) for line in progress.read_text().splitlines())
    assert (begun["state"], ended["state"]) == ("begun", "ended")
    assert "'nothing' does not exist" in ended["error"]["message"]


def test_an_unknown_step_is_named_with_those_that_exist(environment: Environment) -> None:
    answer = execution.execute(request(environment, "deploy"))
    assert "one of: snapshot, validate, train, evaluate, gate, register" in answer["error"]["message"]


def test_a_run_may_name_another_contract_of_the_same_model_only(environment: Environment, tmp_path: Path) -> None:
    def task(contract: str) -> Task:
        run = Run(1, "k", "flight_delay", datetime(2013, 3, 1, tzinfo=UTC), None, {"contract": contract})
        return Task("snapshot", environment, run, {}, {})

    with pytest.raises(InvalidContract, match="there is no such file"):
        _ = task(str(tmp_path / "none.yaml")).contract
    other = load_contract("flight_delay").model_dump(mode="json") | {"model": "parcels"}
    (tmp_path / "other.yaml").write_text(json.dumps(other))
    with pytest.raises(InvalidContract, match="the run is for flight_delay"):
        _ = task(str(tmp_path / "other.yaml")).contract


def test_a_run_survives_its_way_through_json_with_numbers_as_kfp_gives_them_back() -> None:
    run = Run(7, "k", "flight_delay", datetime(2013, 3, 1, tzinfo=UTC), 3, {"corrupt": {"distance": 1609.3}})
    document = {name: float(value) if isinstance(value, int) else value for name, value in run.to_json().items()}
    assert Run.from_json(document) == run


ROWS = pd.DataFrame(
    {
        "carrier": ["UA", "AA", "UA", "B6"],
        "distance": [100.0, 200.0, np.nan, 400.0],
        "posted": pd.to_datetime(["2013-03-01"] * 4, utc=True),
        "label": [0.0, 1.0, 0.0, 1.0],
    }
)


def test_a_corrupted_unit_changes_that_column_alone() -> None:
    spoilt = apply_variations(ROWS, ROWS["label"].notna(), {"corrupt": {"distance": 1000}}, seed=1)
    assert spoilt["distance"].dropna().tolist() == [100_000.0, 200_000.0, 400_000.0]
    assert spoilt.drop(columns="distance").equals(ROWS.drop(columns="distance"))


def test_shuffled_labels_keep_their_share_and_leave_the_judged_rows_alone() -> None:
    rows = pd.concat([ROWS] * 100, ignore_index=True)
    training = pd.Series(np.arange(400) < 300)
    mixed = apply_variations(rows.copy(), training, {"shuffle_labels": True}, seed=1)
    assert mixed.loc[training, "label"].mean() == rows.loc[training, "label"].mean()
    assert not mixed.loc[training, "label"].equals(rows.loc[training, "label"])
    assert mixed.loc[~training, "label"].equals(rows.loc[~training, "label"])


def test_without_options_the_rows_stay_as_they_are() -> None:
    assert apply_variations(ROWS, ROWS["label"].notna(), {}, seed=1).equals(ROWS)


def test_a_column_that_cannot_be_corrupted_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"options\.corrupt\.carrier.*\n.*distance"):
        apply_variations(ROWS, ROWS["label"].notna(), {"corrupt": {"carrier": 2}}, seed=1)


def request_contract() -> Contract:
    document = load_contract("flight_delay").model_dump(mode="json")
    document["request"] = [
        {"name": "carrier", "type": "string"},
        {"name": "distance", "type": "float", "range": [0, 300]},
        {"name": "weight", "type": "float"},
        {"name": "posted", "type": "timestamp"},
    ]
    document["entity"] = {"keys": ["carrier"], "event_time": "posted"}
    document["gate"]["slices"] = ["carrier"]
    return Contract.model_validate(document)


def test_each_break_of_the_requests_rules_names_its_column() -> None:
    problems = {(problem.where, problem.message) for problem in check_request(request_contract(), ROWS)}
    assert problems == {
        ("distance", "1 rows without a value"),
        ("distance", "1 rows outside 0 ... 300, such as 400"),
        ("weight", "is missing from the snapshot"),
    }


def test_golden_rows_are_what_a_client_could_send() -> None:
    contract = request_contract().model_copy(update={"request": request_contract().request[:2]})
    requests, features = plain_rows(contract, ROWS, ["label"])
    assert json.loads(json.dumps(requests, allow_nan=False))[2] == {"carrier": "UA", "distance": None}
    assert features[1] == {"label": 1.0}


def test_the_same_rows_are_the_same_snapshot_and_a_changed_file_is_refused(
    environment: Environment, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        write_rows(ROWS, tmp_path / name)
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    kept = keep_snapshot(environment, tmp_path / "one")
    assert read_snapshot(environment, kept)["carrier"].tolist() == ROWS["carrier"].tolist()
    (environment.state.pipelines / "snapshots" / f"{kept}.parquet").write_bytes(b"PAR1")
    with pytest.raises(Refused, match="was changed"):
        read_snapshot(environment, kept)
    with pytest.raises(Unknown):
        read_snapshot(environment, "0" * 64)


def test_the_graph_has_six_steps_in_order_and_no_condition(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "training", str(tmp_path / "training.yaml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import yaml

    document = yaml.safe_load((tmp_path / "training.yaml").read_text())
    tasks = document["root"]["dag"]["tasks"]
    assert set(tasks) == set(execution.STEPS)
    for before, after in zip(execution.STEPS, execution.STEPS[1:], strict=False):
        assert before in tasks[after]["dependentTasks"], f"{after} could run before {before}"
    assert not any("triggerPolicy" in task for task in tasks.values())
    commands = json.dumps(document["deploymentSpec"])
    assert "pip install" not in commands
