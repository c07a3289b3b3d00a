"""Checks of a cloud's account, through the cloud's own command line: who we are there, and whether its quotas suffice.

Nothing is changed, and no secret is shown. A quota is held against what the settings may grow to, not against what a
first `up` starts.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from slipway.environment import Environment
from slipway.errors import Problem
from slipway.kubernetes_settings import KubernetesSettings
from slipway.targets.finding import Finding, finding
from slipway.targets.kubernetes.machine_checks import LOGINS, TOOLS, find_tool, list_placeholders

Ask = Callable[[tuple[str, ...]], Any]
"""Runs a command and gives the JSON that it prints; None: it is missing, fails, or takes too long."""

_WITHIN = 60
"""Seconds for one answer."""

_MORE = {
    "eks": "ask for more: https://console.aws.amazon.com/servicequotas/",
    "gke": "ask for more: https://console.cloud.google.com/iam-admin/quotas",
    "aks": "ask for more: https://portal.azure.com/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas",
}


@dataclass(frozen=True)
class Quota:
    """How much of something a region gives us, and how much the settings may need."""

    name: str
    limit: float
    used: float
    needed: float

    def finding(self, provider: str) -> Finding:
        free = self.limit - self.used
        found = f"{self.needed:g} needed, {free:g} of {self.limit:g} free"
        return finding(f"quota {self.name}", free >= self.needed, found, _MORE[provider])


def list_obstacles(settings: KubernetesSettings) -> list[Problem]:
    """Why nothing can be made there, from this machine: placeholders, tools, logins. Empty: go on."""
    left = list_placeholders(settings)
    problems = [Problem(key, f"{value} is a placeholder", "yours") for key, value in left.items()]
    missing = [tool for tool in TOOLS.get(settings.provider, ()) if not find_tool(tool.name)]
    needs = f"is not installed, and {settings.provider} needs it"
    problems += [Problem(tool.name, needs, tool.remedy) for tool in missing]
    if settings.provider in LOGINS:
        command, remedy = LOGINS[settings.provider]
        if command[0] not in {tool.name for tool in missing} and not _says(command):
            problems.append(Problem(command[0], "does not know who we are, or does not answer", remedy))
    return problems


def check_quotas(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """CPUs and GPUs that the pools may grow to, against what the region gives."""
    yield from examine_quotas(settings, ask)


def examine_quotas(settings: KubernetesSettings, ask: Ask) -> Iterator[Finding]:
    """The same, through any way to ask."""
    if not settings.is_cloud:
        return
    quotas = list(_QUOTAS[settings.provider](settings, ask))
    for quota in quotas:
        yield quota.finding(settings.provider)
    if not quotas:
        tool = TOOLS[settings.provider][0].name
        yield finding("quotas", False, f"{tool} does not tell them", "log in, and ask for the right to read quotas")


def ask(command: tuple[str, ...]) -> Any:
    """The JSON that a command prints; None when it is missing, fails or takes too long."""
    text = _says(command)
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _says(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _pools(settings: KubernetesSettings) -> Iterator[tuple[str, int]]:
    """(machine, most nodes) of each pool; one node more than that is made during an upgrade."""
    cpu, gpu = settings.nodes.cpu, settings.nodes.gpu
    yield settings.cpu_machine, cpu.max + 1
    if gpu.max:
        yield gpu.machine, gpu.max


def _eks_quotas(settings: KubernetesSettings, ask: Ask) -> Iterator[Quota]:
    aws = ("aws", "--region", settings.network.region, "--output", "json")
    needed: dict[str, float] = {}
    for machine, most in _pools(settings):
        answer = ask((*aws, "ec2", "describe-instance-types", "--instance-types", machine)) or {}
        for kind in answer.get("InstanceTypes", [])[:1]:
            code = _eks_code(machine)
            needed[code] = needed.get(code, 0) + most * kind["VCpuInfo"]["DefaultVCpus"]
    for code, cpus in needed.items():
        answer = ask((*aws, "service-quotas", "get-service-quota", "--service-code", "ec2", "--quota-code", code)) or {}
        if quota := answer.get("Quota"):
            # What runs already is not told: AWS counts it in another service.
            yield Quota(f"{quota['QuotaName']} ({code})", quota["Value"], 0, cpus)


def _eks_code(machine: str) -> str:
    """AWS counts CPUs by family: https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html"""
    family = re.match(r"[a-z]+", machine)
    letters = family[0] if family else ""
    return {"g": "L-DB2E81BA", "gr": "L-DB2E81BA", "vt": "L-DB2E81BA", "p": "L-417A185B"}.get(letters, "L-1216C47A")


def _gke_quotas(settings: KubernetesSettings, ask: Ask) -> Iterator[Quota]:
    network = settings.network
    gcloud = ("gcloud", "compute", "regions", "describe", network.region, "--project", network.project, "--format=json")
    given = {quota["metric"]: quota for quota in (ask(gcloud) or {}).get("quotas", [])}
    needed: dict[str, float] = {}
    for machine, most in _pools(settings):
        family, size = re.match(r"[a-z0-9]+", machine), re.search(r"-(\d+)$", machine)
        own = f"{family[0].upper()}_CPUS" if family else ""
        metric = own if own in given else "CPUS"
        if size:
            needed[metric] = needed.get(metric, 0) + most * int(size[1])
    if settings.nodes.gpu.max:
        metric = settings.nodes.gpu.accelerator.replace("-tesla-", "-").replace("-", "_").upper() + "_GPUS"
        needed[metric] = settings.nodes.gpu.max
    for metric, amount in needed.items():
        if quota := given.get(metric):
            yield Quota(metric, quota["limit"], quota["usage"], amount)


def _aks_quotas(settings: KubernetesSettings, ask: Ask) -> Iterator[Quota]:
    network = settings.network
    at = ("--location", network.region, "--subscription", network.subscription, "--output", "json")
    given = {usage["name"]["value"].lower(): usage for usage in ask(("az", "vm", "list-usage", *at)) or []}
    needed: dict[str, float] = {}
    for machine, most in _pools(settings):
        found = ask(("az", "vm", "list-skus", "--resource-type", "virtualMachines", "--size", machine, *at)) or []
        for sku in [each for each in found if each["name"].lower() == machine.lower()][:1]:
            cpus = next(int(each["value"]) for each in sku["capabilities"] if each["name"] == "vCPUs")
            for name in (sku["family"].lower(), "cores"):
                needed[name] = needed.get(name, 0) + most * cpus
    for name, amount in needed.items():
        if usage := given.get(name):
            # Azure writes numbers as text.
            yield Quota(name, float(usage["limit"]), float(usage["currentValue"]), amount)


_QUOTAS: dict[str, Callable[[KubernetesSettings, Ask], Iterator[Quota]]] = {
    "eks": _eks_quotas,
    "gke": _gke_quotas,
    "aks": _aks_quotas,
}
