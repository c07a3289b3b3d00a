"""The manual names every command and every target, and nothing that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from slipway.cli import app
from slipway.settings import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
TARGET = re.compile(r"^([a-z][a-z-]*):.*## ", re.MULTILINE)


def list_targets() -> set[str]:
    return set(TARGET.findall((REPOSITORY / "Makefile").read_text()))


def list_commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that can be typed, groups left out: `rollout show`."""
    children = getattr(group, "commands", None)
    if children is None:
        yield " ".join(path)
        return
    for name, child in children.items():
        yield from list_commands(child, (*path, name))


def find_code(page: Path) -> Iterator[str]:
    """Inline code and the lines of code blocks."""
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside:
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


COMMANDS = sorted(list_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_operations_page(command: str) -> None:
    assert f"`slipway {command}`" in OPERATIONS


@pytest.mark.parametrize("target", sorted(list_targets()))
def test_every_target_stands_in_the_operations_page(target: str) -> None:
    assert f"`make {target}`" in OPERATIONS


def test_there_are_at_most_sixteen_targets() -> None:
    assert len(list_targets()) <= 16


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_pages_name_only_targets_and_commands_that_exist(page: Path) -> None:
    targets, groups = list_targets(), {command.split()[0] for command in COMMANDS}
    for code in find_code(page):
        for target in re.findall(r"^make ([a-z][a-z-]*)", code):
            assert target in targets, f"make {target}"
        for word in re.findall(r"^slipway ([a-z][a-z]*)", code):
            assert word in groups, f"slipway {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", page.read_text())
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_pages_hold_no_path_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:home|root|work|Users|tmp)/\w", page.read_text())


def test_every_decision_stands_in_the_list() -> None:
    folder = REPOSITORY / "docs" / "decisions"
    listed = set(re.findall(r"\]\((\d{4}-[a-z-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {file.name for file in folder.glob("0*.md")}
