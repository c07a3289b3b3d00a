"""How the tools of the cluster tests are found and what is said when they cannot be built; nothing is built here."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import InvalidInput
from tests.cluster.tools import build


def test_every_folder_of_pins_is_built() -> None:
    assert {tool.folder for tool in build.TOOLS} == {file.parent.name for file in build.PINS.glob("*/go.mod")}


def test_every_tool_has_a_pinned_version() -> None:
    assert {tool.folder: tool.version for tool in build.TOOLS}["kubernetes"] == "v1.35.4"
    assert all(tool.version.startswith("v") for tool in build.TOOLS)


def test_a_missing_program_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.FOLDER, str(tmp_path))
    with pytest.raises(InvalidInput, match=r"(?s)helm: is not in .*hint: make tools"):
        build.find_program("helm")


def test_without_go_the_message_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.FOLDER, str(tmp_path / "tools"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"(?s)go: is not on the PATH.*hint: install Go"):
        list(build.build())


def test_a_tool_on_the_path_in_the_pinned_version_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, folder = tmp_path / "bin", tmp_path / "tools"
    installed.mkdir()
    folder.mkdir()
    helm = next(tool for tool in build.TOOLS if tool.folder == "helm")
    program = installed / "helm"
    monkeypatch.setenv("PATH", f"{installed}:/usr/bin:/bin")
    for says, taken in (("v3.0.0", False), (f"{helm.version}0", False), (f"{helm.version}+g1", True)):
        program.write_text(f"#!/bin/sh\necho {says}\n")
        program.chmod(0o755)
        assert bool(build._link_installed(helm, list(helm.programs), folder)) is taken
    assert (folder / "helm").resolve() == program
