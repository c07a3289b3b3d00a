"""A cloud's quotas against what the pools may grow to, from answers in the clouds' own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slipway.kubernetes_settings import KubernetesSettings
from slipway.targets.finding import Finding
from slipway.targets.kubernetes.cloud_checks import examine_quotas, list_obstacles
from tests.infra.recorded_stack import CLOUDS, settings_of

GPUS = {
    "eks": {"machine": "g6.xlarge", "max": 2},
    "gke": {"machine": "g2-standard-4", "accelerator": "nvidia-l4", "max": 2},
    "aks": {"machine": "Standard_NC4as_T4_v3", "max": 2},
}


def settings_for(cloud: str, **nodes: Any) -> KubernetesSettings:
    settings = settings_of(Path("/nowhere"), **CLOUDS[cloud], nodes=nodes).kubernetes
    assert settings is not None
    return settings


def answer_eks(command: tuple[str, ...], limits: dict[str, float]) -> Any:
    assert command[:3] == ("aws", "--region", "eu-west-1")
    if "describe-instance-types" in command:
        return {"InstanceTypes": [{"VCpuInfo": {"DefaultVCpus": 4}}]}
    code = command[-1]
    return {"Quota": {"QuotaName": f"CPUs of {code}", "Value": limits[code]}}


def answer_gke(command: tuple[str, ...], limits: dict[str, float]) -> Any:
    assert command[:4] == ("gcloud", "compute", "regions", "describe")
    return {"quotas": [{"metric": name, "limit": limit, "usage": 1} for name, limit in limits.items()]}


def answer_aks(command: tuple[str, ...], limits: dict[str, float]) -> Any:
    if "list-usage" in command:
        return [{"name": {"value": name}, "currentValue": "1", "limit": str(limit)} for name, limit in limits.items()]
    size = command[command.index("--size") + 1]
    family = "standardNCASv3_T4Family" if "NC" in size else "standardDSv5Family"
    capabilities = [{"name": "vCPUs", "value": "4"}, {"name": "GPUs", "value": "1"}]
    # Azure takes the size as a beginning, and answers with longer names as well.
    return [{"name": f"{size}_long", "family": "other", "capabilities": capabilities},
            {"name": size, "family": family, "capabilities": capabilities}]  # fmt: skip


CASES: dict[str, tuple[Any, dict[str, float]]] = {
    "eks": (answer_eks, {"L-1216C47A": 20, "L-DB2E81BA": 8}),
    "gke": (answer_gke, {"N2_CPUS": 21, "CPUS": 9, "NVIDIA_L4_GPUS": 3}),
    "aks": (answer_aks, {"standardDSv5Family": 21, "standardNCASv3_T4Family": 9, "cores": 29}),
}


def examined(cloud: str, limits: dict[str, float], **nodes: Any) -> list[Finding]:
    answer, _ = CASES[cloud]
    return list(examine_quotas(settings_for(cloud, **nodes), lambda command: answer(command, limits)))


@pytest.mark.parametrize("cloud", CASES)
def test_quotas_that_just_suffice_are_well(cloud: str) -> None:
    """5 nodes of 4 CPUs (one more than the most, for an upgrade), and 2 GPU nodes."""
    findings = examined(cloud, CASES[cloud][1], gpu=GPUS[cloud])
    assert len(findings) >= 2
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize("cloud", CASES)
def test_each_quota_that_is_one_short_is_found_with_its_remedy(cloud: str) -> None:
    _, enough = CASES[cloud]
    for name in enough:
        findings = examined(cloud, {**enough, name: enough[name] - 1}, gpu=GPUS[cloud])
        (short,) = (finding for finding in findings if not finding.ok)
        assert name.lower() in short.check.lower()
        assert "needed" in short.found and "https://" in short.remedy


def test_a_family_without_a_quota_of_its_own_counts_among_all() -> None:
    findings = examined("gke", {"CPUS": 10}, cpu={"machine": "e2-standard-2", "max": 3})
    assert [(finding.check, finding.ok, finding.found) for finding in findings] == [
        ("quota CPUS", True, "8 needed, 9 of 10 free")
    ]


@pytest.mark.parametrize("cloud", CASES)
def test_a_cloud_that_does_not_answer_is_a_finding(cloud: str) -> None:
    (finding,) = examine_quotas(settings_for(cloud), lambda _: None)
    assert not finding.ok and "log in" in finding.remedy


def test_kind_has_no_quotas(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, provider="kind").kubernetes
    assert settings is not None
    assert list(examine_quotas(settings, lambda _: pytest.fail("asked"))) == []


@pytest.mark.parametrize(
    ("cloud", "missing"),
    [("eks", {"aws"}), ("gke", {"gcloud", "gke-gcloud-auth-plugin"}), ("aks", {"az", "kubelogin"})],
)
def test_missing_tools_are_all_named_at_once(
    cloud: str, missing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLIPWAY_TOOLS", raising=False)
    problems = list_obstacles(settings_for(cloud))
    assert {problem.where for problem in problems} == missing
    assert all("is not installed" in problem.message and problem.hint for problem in problems)


def test_who_is_not_logged_in_is_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "aws"
    program.write_text("#!/bin/sh\necho 'Unable to locate credentials' >&2\nexit 253\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLIPWAY_TOOLS", raising=False)
    (problem,) = list_obstacles(settings_for("eks"))
    assert (problem.where, problem.hint) == ("aws", "aws sso login, or aws configure")
    program.write_text("#!/bin/sh\necho arn:aws:iam::123456789012:user/me\n")
    assert list_obstacles(settings_for("eks")) == []


def test_a_placeholder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(
        tmp_path,
        provider="gke",
        network={"region": "europe-west3", "project": "your-project"},
        domain="slipway.example.com",
    )
    assert settings.kubernetes is not None
    refused = {problem.where for problem in list_obstacles(settings.kubernetes)}
    assert {"kubernetes.domain", "kubernetes.network.project"} <= refused
