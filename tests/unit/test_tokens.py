"""Tokens: made once, private, replaced by name."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipway import tokens
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady, SlipwayError, Unknown
from slipway.settings import Settings


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "test.toml", Settings(name="test", state_dir=tmp_path / "state"))


def test_every_role_gets_a_token_of_its_own_that_only_the_owner_can_read(environment: Environment) -> None:
    assert tokens.prepare(environment) == list(tokens.ROLES)
    values = {tokens.read_token(environment, role) for role in tokens.ROLES}
    assert len(values) == len(tokens.ROLES)
    assert all(len(value) >= 43 for value in values)
    for role in tokens.ROLES:
        assert stat.S_IMODE(tokens.token_file(environment, role).stat().st_mode) == 0o600


def test_preparing_again_changes_no_token(environment: Environment) -> None:
    tokens.prepare(environment)
    before = tokens.read_token(environment, "read")
    assert tokens.prepare(environment) == []
    assert tokens.read_token(environment, "read") == before


def test_processes_that_prepare_at_once_agree_on_one_token(environment: Environment) -> None:
    def prepare_and_read(_: int) -> str:
        tokens.prepare(environment)
        return tokens.read_token(environment, "operate")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(prepare_and_read, range(32)))) == 1
    assert sorted(path.name for path in (environment.state.secrets / "tokens").iterdir()) == sorted(tokens.ROLES)


def test_rotation_replaces_the_named_tokens_and_no_other(environment: Environment) -> None:
    tokens.prepare(environment)
    before = {role: tokens.read_token(environment, role) for role in tokens.ROLES}
    files = tokens.rotate(environment, ["labels"])
    after = {role: tokens.read_token(environment, role) for role in tokens.ROLES}
    assert [role for role in tokens.ROLES if before[role] != after[role]] == ["labels"]
    assert [file.name for file in files] == ["labels"]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


def test_a_wrong_role_rotates_nothing_and_every_wrong_name_is_told(environment: Environment) -> None:
    tokens.prepare(environment)
    before = tokens.read_token(environment, "read")
    with pytest.raises(InvalidInput) as error:
        tokens.rotate(environment, ["read", "admin", "../read"])
    assert len(error.value.problems) == 2
    assert tokens.read_token(environment, "read") == before


def test_a_role_that_does_not_exist_has_no_file(environment: Environment) -> None:
    with pytest.raises(Unknown):
        tokens.read_token(environment, "../ray_token")  # type: ignore[arg-type]


def test_a_missing_token_says_what_makes_it(environment: Environment) -> None:
    with pytest.raises(NotReady, match="slipway up"):
        tokens.read_token(environment, "read")


@pytest.mark.parametrize("damage", ["readable by others", "empty", "a link"])
def test_a_token_file_that_cannot_be_trusted_is_refused(environment: Environment, damage: str) -> None:
    tokens.prepare(environment)
    file = tokens.token_file(environment, "read")
    if damage == "readable by others":
        file.chmod(0o640)
    elif damage == "empty":
        file.write_text("")
    else:
        file.rename(file.with_name("elsewhere"))
        file.symlink_to(file.with_name("elsewhere"))
    with pytest.raises(SlipwayError, match="slipway token rotate read"):
        tokens.read_token(environment, "read")
    tokens.rotate(environment, ["read"])
    assert tokens.read_token(environment, "read")
