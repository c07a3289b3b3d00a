"""Small programs that the engine is tried with, and the run of one of them in a process of its own, to be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pulumi
import pulumi_kubernetes as kubernetes

from infra.components.component import Site
from infra.components.contents import Contents
from infra.components.secrets import SecretStore
from infra.components.workload import Workload, WorkloadArgs
from infra.engine import Engine
from slipway.environment import Environment, open_environment
from slipway.mirror.versions import load_versions
from slipway.settings import Settings
from tests.cluster.provider import plugin

NAMESPACE = "engine-trial"
PASSWORD = "correct-horse-battery-staple"
COUNT = "ENGINE_TRIAL_COUNT"
"""How many ConfigMaps the long program makes, one after the other."""
KILLED_WITHIN = 300.0


def stand_up(settings: Settings, *, version: str = "1.0.0") -> None:
    """A namespace, a definition with an object of it, a secret, and two parts of which one carries a version."""
    assert settings.kubernetes is not None
    cluster = kubernetes.Provider("cluster", kubeconfig=str(settings.kubernetes.kubeconfig))

    def options(*after: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(provider=cluster, depends_on=list(after))

    namespace = kubernetes.core.v1.Namespace("namespace", metadata={"name": NAMESPACE}, opts=options())
    definition = kubernetes.apiextensions.v1.CustomResourceDefinition(
        "definition",
        metadata={"name": "trials.engine.test"},
        spec={
            "group": "engine.test",
            "scope": "Namespaced",
            "names": {"kind": "Trial", "plural": "trials", "singular": "trial", "list_kind": "TrialList"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "open_apiv3_schema": {
                            "type": "object",
                            "properties": {
                                "spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
                            },
                        }
                    },
                }
            ],
        },
        opts=options(),
    )
    kubernetes.apiextensions.CustomResource(
        "trial",
        api_version="engine.test/v1",
        kind="Trial",
        metadata={"name": "trial", "namespace": NAMESPACE, "finalizers": []},
        spec={"size": 3},
        opts=options(namespace, definition),
    )
    secret = kubernetes.core.v1.Secret(
        "secret",
        metadata={"name": "password", "namespace": NAMESPACE},
        string_data={"password": pulumi.Output.secret(PASSWORD)},
        opts=options(namespace),
    )
    for name, image in (("pinned", f"registry.example/pinned:{version}"), ("other", "registry.example/other:1.0.0")):
        _deployment(name, image, options(namespace, secret))
    pulumi.export("url", "https://trial.example")
    pulumi.export("password", secret.string_data)


def stand_up_server(settings: Settings, *, replicas: int) -> None:
    """One of our own workloads."""
    assert settings.kubernetes is not None
    cluster = kubernetes.Provider("cluster", kubeconfig=str(settings.kubernetes.kubeconfig))
    namespace = kubernetes.core.v1.Namespace(
        "namespace", metadata={"name": NAMESPACE}, opts=pulumi.ResourceOptions(provider=cluster)
    )
    secrets = SecretStore(settings.state_dir / "secrets")
    site = Site(settings.name, settings.kubernetes, load_versions(), secrets, Contents("key"), "")
    args = WorkloadArgs(site=site, part="registry", namespace=NAMESPACE, image="envoy", replicas=replicas)
    Workload("server", args, pulumi.ResourceOptions(provider=cluster, depends_on=[namespace]))


def stand_up_slowly(settings: Settings) -> None:
    """A chain of objects, long enough to be interrupted."""
    assert settings.kubernetes is not None
    cluster = kubernetes.Provider("cluster", kubeconfig=str(settings.kubernetes.kubeconfig))
    last: list[pulumi.Resource] = []
    for index in range(int(os.environ.get(COUNT, "30"))):
        made = kubernetes.core.v1.ConfigMap(
            f"link-{index}",
            metadata={"name": f"link-{index}", "namespace": "default"},
            data={"index": str(index)},
            opts=pulumi.ResourceOptions(provider=cluster, depends_on=last),
        )
        last = [made]


def _deployment(name: str, image: str, options: pulumi.ResourceOptions) -> None:
    labels = {"app": name}
    kubernetes.apps.v1.Deployment(
        name,
        metadata={"name": name, "namespace": NAMESPACE},
        spec={
            "replicas": 1,
            "selector": {"match_labels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [
                        {
                            "name": "main",
                            "image": image,
                            # Written as nobody stores it: a quantity must not look like a change.
                            "resources": {"limits": {"cpu": "1000m", "memory": "64Mi"}},
                        }
                    ]
                },
            },
        },
        opts=options,
    )


def kill_in_the_middle(environment: Environment, log: Path, enough: Callable[[], bool], *program: str) -> None:
    """Start `up` in a process of its own; when `enough` says so, kill -9 of it and of the engine below it."""
    command = [sys.executable, "-m", "tests.cluster.engine_programs", str(environment.file), *program]
    with log.open("w") as output, subprocess.Popen(command, cwd=plugin.REPOSITORY, stdout=output, stderr=output) as run:
        deadline = time.monotonic() + KILLED_WITHIN
        try:
            while not enough():
                assert run.poll() is None, f"it ended by itself:\n{log.read_text()}"
                assert time.monotonic() < deadline, f"it made too little:\n{log.read_text()}"
                time.sleep(0.5)
        finally:
            # The children first: they would end cleanly when their parent is gone.
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (*psutil.Process(run.pid).children(recursive=True), run):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
    locks = environment.state.root / "pulumi" / ".pulumi" / "locks"
    assert list(locks.rglob("*.json")), "a killed run leaves its lock"


if __name__ == "__main__":
    # `python -m tests.cluster.engine_programs ENVIRONMENT_FILE [whole]`: the run that gets killed.
    program = None if sys.argv[2:] == ["whole"] else stand_up_slowly
    Engine(open_environment(sys.argv[1]), "services", print, program).up(policies=False)
