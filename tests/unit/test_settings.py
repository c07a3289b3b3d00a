"""What an environment file may say: one file for each rule, in tests/settings/invalid; the file's name is the rule."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from slipway.errors import InvalidSettings, Unknown
from slipway.settings import ENVIRONMENTS, REPOSITORY, Settings, load_settings
from slipway.settings_reference import list_keys, render_markdown

FILES = REPOSITORY / "tests" / "settings"
INVALID = sorted((FILES / "invalid").glob("*.toml"))
VALID = sorted([*(FILES / "valid").glob("*.toml"), *ENVIRONMENTS.glob("*.toml")])


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_a_broken_rule_is_reported_by_its_key_with_a_hint(file: Path) -> None:
    expected = dict(re.findall(r"^# (expect|hint): (.+)$", file.read_text(), re.MULTILINE))
    with pytest.raises(InvalidSettings) as caught:
        load_settings(str(file))
    (problem,) = caught.value.problems
    assert expected["expect"] in f"{problem.where}: {problem.message}"
    assert expected["hint"] in problem.hint


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_a_good_file_is_taken(file: Path) -> None:
    load_settings(str(file))


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('name = "Bad"\ncolour = 1\n[gateway]\nport = -1\n[ray]\ncpus = 0\n')
    with pytest.raises(InvalidSettings) as caught:
        load_settings(str(file))
    assert {problem.where for problem in caught.value.problems} == {"name", "colour", "gateway.port", "ray.cpus"}


def test_an_unknown_environment_names_those_that_exist() -> None:
    with pytest.raises(Unknown, match="local"):
        load_settings("no-such-environment")


def test_a_relative_state_folder_begins_at_the_repository() -> None:
    assert Settings(name="x", state_dir=Path("data")).state_dir == REPOSITORY / "data"


def test_the_example_explains_every_key_with_its_default() -> None:
    text = (ENVIRONMENTS / "example.toml").read_text()
    # Without their comment signs, the lines `# key = value` make a file that says nothing but defaults.
    spoken = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    document = tomllib.loads(spoken)
    for key in list_keys():
        section, _, name = key.path.rpartition(".")
        table = document[section] if section else document
        assert name in table, f"{key.path} is not in example.toml"
        entry = re.search(
            rf"((?:^#.*\n)+)(?:# )?{name} = ", text.partition(f"[{section}]")[2] if section else text, re.MULTILINE
        )
        assert entry, key.path
    document["gateway"].pop("tls_certificate")
    document["gateway"].pop("tls_key")
    assert Settings.model_validate(document) == Settings(name="example")


def test_every_key_has_a_meaning() -> None:
    assert [key.path for key in list_keys() if not key.meaning] == []


def test_the_settings_page_is_current() -> None:
    page = (REPOSITORY / "docs" / "settings.md").read_text()
    assert page == render_markdown(), "slipway config schema --markdown > docs/settings.md"
