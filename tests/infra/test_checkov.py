"""checkov on the rendered objects, where it is installed (SLIPWAY_CHECKOV or the PATH), and how its verdict is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.infra.checkov import EXCEPTIONS, PROFILES, examine, judge

PROGRAM = os.environ.get("SLIPWAY_CHECKOV") or shutil.which("checkov")


@pytest.mark.skipif(not PROGRAM, reason="checkov comes in an environment of its own: python -m tests.infra.checkov")
@pytest.mark.parametrize("profile", PROFILES)
def test_every_check_passes_or_has_an_exception(profile: str, tmp_path: Path) -> None:
    result = examine(str(PROGRAM), tmp_path, profile)
    assert result.failed == []
    assert result.passed > 1000


def test_a_failure_without_an_exception_is_named_and_one_with_it_is_counted() -> None:
    entry = next(entry for entry in EXCEPTIONS if entry.rule == "CKV_K8S_35")
    objects = [
        {"kind": "Deployment", "metadata": {"namespace": "slipway-system", "name": name}}
        for name in ("registry", "other")
    ]
    failed = [
        {"check_id": "CKV_K8S_35", "check_name": "Prefer files", "resource": f"Deployment.slipway-system.{name}"}
        for name in ("registry", "other")
    ]
    result = judge({"summary": {"passed": 7}, "results": {"failed_checks": failed}}, objects)
    assert result.failed == ["CKV_K8S_35: Deployment/slipway-system/other: Prefer files"]
    assert (result.passed, result.excepted) == (7, [entry.name])
