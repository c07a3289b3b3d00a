"""`slipway predict` and `slipway label`: what they check before anything is sent or kept, and how they end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slipway.cli import main
from slipway.clock import ReplayClock
from slipway.environment import open_environment
from slipway.labels import LabelStore

MODEL = "flight_delay"
NOW = datetime(2013, 3, 2, tzinfo=UTC)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    opened = open_environment(str(file))
    opened.state.prepare()
    ReplayClock(opened.state.clock_file).set(NOW)
    monkeypatch.setenv("SLIPWAY_ENVIRONMENT", str(file))
    return file


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["slipway", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_labels_of_a_file_are_kept_and_counted(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("prediction_id,value,known_at\nflight-0001,1,2013-03-01T16:00:00Z\n")
    assert run(monkeypatch, "label", MODEL, "--file", file, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["accepted"], facts["pending"], facts["refused"]) == (1, 1, 0)
    store = LabelStore(open_environment(str(environment)))
    assert store.read(MODEL, known_by=NOW)["id"].tolist() == ["flight-0001"]


def test_wrong_lines_are_named_and_end_with_two_while_the_others_count(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.jsonl"
    lines = [("flight-0001", 1, "2013-03-01T16:00:00Z"), ("flight-0002", 1, "2014-01-01T00:00:00Z"), ("x", 1, "then")]
    file.write_text(
        "".join(
            json.dumps(dict(zip(("prediction_id", "value", "known_at"), line, strict=True))) + "\n" for line in lines
        )
    )
    assert run(monkeypatch, "label", MODEL, "--file", file) == 2
    told = capsys.readouterr().err
    assert "labels.jsonl:2.known_at: 2014-01-01T00:00:00Z is in the future" in told
    assert "labels.jsonl:3.known_at" in told
    assert "Traceback" not in told
    store = LabelStore(open_environment(str(environment)))
    assert store.read(MODEL, known_by=NOW)["id"].tolist() == ["flight-0001"]


def test_a_wrong_request_is_refused_before_it_is_sent(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"instances": [{"carrier": 3}]}')
    assert run(monkeypatch, "predict", MODEL, "--file", file) == 2
    told = capsys.readouterr().err
    assert "instances.0.carrier: 3 is not a text" in told
    assert "instances.0.distance: is missing\n  hint: add it" in told


@pytest.mark.parametrize(
    ("content", "told"), [("{", "request: is not JSON"), ("[]", "is not a JSON object"), (None, "cannot be read")]
)
def test_a_file_that_is_no_request_is_refused(
    environment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    told: str,
) -> None:
    file = tmp_path / "request.json"
    if content is not None:
        file.write_text(content)
    assert run(monkeypatch, "predict", MODEL, "--file", file) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "label"])
def test_an_unknown_model_is_refused(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = tmp_path / "some.json"
    file.write_text("{}")
    assert run(monkeypatch, command, "no_such_model", "--file", file) == 2
    assert "model: 'no_such_model' does not exist" in capsys.readouterr().err
