"""What a contract may say: one file for each rule, tests/settings/invalid/*.yaml; the file's name is the rule."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from slipway import contract
from slipway.contract import list_models, load_contract, read_contract
from slipway.errors import InvalidContract, Unknown
from slipway.settings import REPOSITORY

INVALID = sorted((REPOSITORY / "tests" / "settings" / "invalid").glob("*.yaml"))


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_a_broken_rule_is_one_message_with_its_key_and_a_hint(file: Path) -> None:
    expected = dict(re.findall(r"^# (expect|hint): (.+)$", file.read_text(), re.MULTILINE))
    with pytest.raises(InvalidContract) as caught:
        read_contract(file)
    (problem,) = caught.value.problems
    assert expected["expect"] in f"{problem.where}: {problem.message}"
    assert expected["hint"] in problem.hint


@pytest.mark.parametrize("model", list_models())
def test_the_contract_of_every_model_is_good_and_survives_being_written(model: str, tmp_path: Path) -> None:
    read = load_contract(model)
    file = tmp_path / "model.yaml"
    file.write_text(read.model_dump_json())  # JSON is YAML
    assert read_contract(file) == read


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    text = (REPOSITORY / "pipelines" / "flight_delay" / "model.yaml").read_text()
    broken = {"task: binary_classification": "task: x", "steps: [10, 50]": "steps: [50, 10]", "seed: 1": "seed: one"}
    for good, bad in broken.items():
        assert good in text
        text = text.replace(good, bad)
    file.write_text(text)
    with pytest.raises(InvalidContract) as caught:
        read_contract(file)
    assert {problem.where for problem in caught.value.problems} == {"task", "rollout.steps", "training.seed"}


def test_a_contract_names_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parcels").mkdir()
    text = (REPOSITORY / "pipelines" / "flight_delay" / "model.yaml").read_text()
    (tmp_path / "parcels" / "model.yaml").write_text(text)
    monkeypatch.setattr(contract, "MODELS", tmp_path)
    with pytest.raises(InvalidContract, match="model: 'flight_delay' in the folder parcels"):
        load_contract("parcels")


@pytest.mark.parametrize("name", ["parcels", "../flight_delay", "flight-delay", ""])
def test_an_unknown_model_is_answered_with_those_that_exist(name: str) -> None:
    with pytest.raises(Unknown, match=r"hint: one of: .*flight_delay"):
        load_contract(name)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidContract, match="not YAML"):
        read_contract(file)


def test_the_command_line_exits_2_with_the_same_text_and_no_traceback(tmp_path: Path) -> None:
    environment = tmp_path / "test.toml"
    environment.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    file = REPOSITORY / "tests" / "settings" / "invalid" / "steps-rise.yaml"
    with pytest.raises(InvalidContract) as caught:
        read_contract(file)
    command: list[str | Path] = [Path(sys.executable).with_name("slipway"), "--env", environment]
    done = subprocess.run(
        [*command, "train", "flight_delay", "--as-of", "2013-03-01", "--contract", file],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert str(caught.value) in done.stderr
    assert "Traceback" not in done.stderr
