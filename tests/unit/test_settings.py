"""What an environment file may say: one file for each rule, in tests/settings/invalid; the file's name is the rule."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import InvalidSettings, Unknown
from slipway.kubernetes_settings import KubernetesSettings
from slipway.settings import ENVIRONMENTS, REPOSITORY, Settings, load_settings
from slipway.settings_reference import Key, list_keys, list_kubernetes_keys, render_markdown

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


def test_a_wrong_type_is_told_in_words_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('name = "x"\nstate_dir = 3\n[kubernetes]\nparts.queueing.teams = "models"\n')
    with pytest.raises(InvalidSettings) as caught:
        load_settings(str(file))
    told = {problem.where: problem.message for problem in caught.value.problems}
    assert told == {"state_dir": "3: not a path in quotes", "kubernetes.parts.queueing.teams": "'models': not a list"}


def test_a_file_that_is_no_text_is_told_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSettings, match=r"bad\.toml: not TOML: 'utf-8' codec"):
        load_settings(str(file))


def test_an_unknown_environment_names_those_that_exist() -> None:
    with pytest.raises(Unknown, match="local"):
        load_settings("no-such-environment")


def test_a_relative_state_folder_begins_at_the_repository() -> None:
    assert Settings(name="x", state_dir=Path("data")).state_dir == REPOSITORY / "data"


def test_a_path_is_whole_before_it_is_handed_to_a_program_that_works_elsewhere() -> None:
    settings = KubernetesSettings.model_validate({"kubeconfig": "~/cluster", "mirror": {"dir": "mirror"}})
    assert settings.kubeconfig == Path.home() / "cluster"
    assert settings.mirror.dir == REPOSITORY / "mirror"


def _spoken(text: str) -> dict[str, Any]:
    """The lines `# [table]` and `# key = value` without their comment signs: a file that says nothing but defaults."""
    return tomllib.loads(re.sub(r"^# (?=\[[a-z_.]+\]$|[a-z_]+ = )", "", text, flags=re.MULTILINE))


def _explained(text: str, key: Key) -> bool:
    """Above the key stands a comment that says whether it is needed."""
    section, _, name = key.path.rpartition(".")
    # A table's keys end where the next table begins.
    table = re.split(r"^(?:# )?\[", text.partition(f"[{section}]")[2] if section else text, flags=re.MULTILINE)[0]
    entry = re.search(rf"((?:^# .*\n)+)(?:# )?{name} = ", table, re.MULTILINE)
    return entry is not None and re.search(r"REQUIRED|OPTIONAL", entry[1]) is not None


def test_the_example_explains_every_key_with_its_default() -> None:
    text = (ENVIRONMENTS / "example.toml").read_text()
    both, header, kubernetes = text.partition("# [kubernetes]\n")
    assert [key.path for key in list_keys() if not _explained(both, key)] == []
    assert [key.path for key in list_kubernetes_keys() if not _explained(header + kubernetes, key)] == []
    document = _spoken(both)
    for key in ("tls_certificate", "tls_key"):
        del document["gateway"][key]
    assert Settings.model_validate(document) == Settings(name="example")
    document = _spoken(header + kubernetes)["kubernetes"]
    del document["kubeconfig"], document["backend"]["passphrase_file"], document["mirror"]["dir"]
    assert KubernetesSettings.model_validate(document) == KubernetesSettings()


def test_every_key_has_a_meaning() -> None:
    assert [key.path for key in [*list_keys(), *list_kubernetes_keys()] if not key.meaning] == []


def test_the_settings_page_is_current() -> None:
    page = (REPOSITORY / "docs" / "settings.md").read_text()
    assert page == render_markdown(), "slipway config schema --markdown > docs/settings.md"
