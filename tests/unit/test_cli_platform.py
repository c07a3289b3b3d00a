"""The commands for settings and the machine: one message a mistake, exit codes, JSON where facts are printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.cli import operator
from slipway.environment import Environment
from slipway.settings import REPOSITORY, GatewaySettings, Settings
from slipway.settings_reference import list_keys
from slipway.targets.local import doctor, lifecycle


def slipway(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("slipway")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_config_check_reports_every_mistake_of_every_file_and_exits_2(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\n[ray]\ncpus = 0\n')
    (tmp_path / "b.toml").write_text('name = "B"\ncolour = 1\n')
    result = slipway("config", "check", str(tmp_path / "a.toml"), str(tmp_path / "b.toml"))
    assert result.returncode == 2
    for expected in ("a.toml: ray.cpus: 0", "b.toml: name: 'B'", "b.toml: colour: unknown key"):
        assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_config_check_of_good_files_exits_0() -> None:
    files = sorted((REPOSITORY / "platform" / "environments").glob("*.toml"))
    result = slipway("config", "check", *map(str, files))
    assert (result.returncode, result.stdout.count(": good")) == (0, len(files))


def test_what_lies_in_a_cluster_is_asked_for_there_and_never_in_an_empty_folder_here(tmp_path: Path) -> None:
    file = tmp_path / "far.toml"
    file.write_text(f'name = "far"\ntarget = "kubernetes"\nstate_dir = "{tmp_path / "state"}"\n[kubernetes]\n')
    result = slipway("--env", str(file), "rollback", "flight_delay", "--reason", "worse than before")
    assert result.returncode == 2
    assert "far: its ledger and data are in the cluster, not here" in result.stderr
    assert "kubectl -n slipway-system exec deploy/controller -- env USER=" in result.stderr
    assert " python -m slipway rollback flight_delay --reason 'worse than before'\n" in result.stderr
    for command in (["model", "list"], ["train", "flight_delay"], ["backup", str(tmp_path / "archive")]):
        assert slipway("--env", str(file), *command).returncode == 2, command
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["up", "--retain"], "--retain: on Kubernetes what was made stays anyway"),
        (["down", "--delete-data", "--keep-data"], "say the opposite of one another"),
    ],
)
def test_an_option_that_cannot_be_kept_is_refused(tmp_path: Path, command: list[str], said: str) -> None:
    file = tmp_path / "far.toml"
    file.write_text(f'name = "far"\ntarget = "kubernetes"\nstate_dir = "{tmp_path / "state"}"\n[kubernetes]\n')
    result = slipway("--env", str(file), *command)
    assert result.returncode == 2
    assert said in result.stderr


def test_whoever_has_no_account_is_named_by_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert operator.name_operator() == f"uid {os.getuid()}"
    monkeypatch.setenv("USER", "ada")
    assert operator.name_operator() == "ada"


def test_what_the_system_refuses_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = slipway("mirror", "plan", str(tmp_path / "file"))
    assert result.returncode == 1
    assert result.stderr == (
        f"{tmp_path}/file/images/index.json: Not a directory\n"
        f"hint: whose is it, and has its disk room? ls -ld {tmp_path}/file/images/index.json\n"
    )


def test_config_show_prints_every_key() -> None:
    shown = slipway("config", "show").stdout
    assert [key.path for key in list_keys() if f"{key.path} = " not in shown] == []
    assert json.loads(slipway("config", "show", "--json").stdout)["name"] == "local"


def test_an_unknown_environment_exits_2_and_names_those_that_exist() -> None:
    result = slipway("--env", "lokal", "status")
    assert result.returncode == 2
    assert "'lokal' does not exist" in result.stderr
    assert "local" in result.stderr.partition("hint:")[2]


def test_the_command_line_imports_no_heavy_library() -> None:
    """`slipway --help` takes a moment, not seconds."""
    heavy = ("mlflow", "feast", "ray", "kfp", "kserve", "evidently", "pandas", "lightgbm", "duckdb")
    code = f"import sys, slipway.cli; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# -- doctor -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "d.toml", Settings(name="d", state_dir=tmp_path / "state"))


def test_every_finding_that_is_bad_names_a_remedy_and_no_other_does(environment: Environment) -> None:
    for finding in doctor.examine(environment):
        assert finding.found
        assert bool(finding.remedy) is not finding.ok


def test_doctor_counts_all_failures_and_does_not_stop_at_the_first(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(1, 1, 0))
    monkeypatch.setattr(doctor.psutil, "cpu_count", lambda: 1)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    failed = {finding.check for finding in doctor.examine(environment) if not finding.ok}
    assert {"5 GiB of free disk", "2 CPUs", "venv module", "flight data"} <= failed


def test_doctor_sees_a_secret_that_others_can_read(environment: Environment) -> None:
    environment.state.prepare()
    token = environment.state.secrets / "tokens" / "operate"
    token.write_text("x")
    token.chmod(0o644)
    finding = doctor.check_private_files(environment)
    environment.state.sockets.rmdir()
    assert not finding.ok
    assert "operate" in finding.found


def test_doctor_sees_a_path_that_is_too_long_for_sockets(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.check_socket_paths(environment).ok
    monkeypatch.setattr("tempfile.gettempdir", lambda: f"/tmp/{'deep/' * 10}")
    assert not doctor.check_socket_paths(environment).ok


def test_files_that_settings_name_are_looked_for_before_anything_starts(environment: Environment) -> None:
    missing = GatewaySettings(tls_certificate=Path("/nowhere/chain.pem"), tls_key=Path("/nowhere/key.pem"))
    settings = environment.settings.model_copy(update={"gateway": missing})
    with pytest.raises(Exception, match="tls_certificate: /nowhere/chain") as caught:
        lifecycle.check_files(Environment(environment.file, settings))
    assert "gateway.tls_key" in str(caught.value)
