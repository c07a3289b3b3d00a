"""Small programs that the engine is tried with, and the run of one of them in a process of its own, to be killed."""

from __future__ import annotations

import os
import sys

import pulumi
import pulumi_kubernetes as kubernetes

from infra.engine import Engine
from slipway.environment import open_environment
from slipway.settings import Settings

NAMESPACE = "engine-trial"
PASSWORD = "correct-horse-battery-staple"
COUNT = "ENGINE_TRIAL_COUNT"
"""How many ConfigMaps the long program makes, one after the other."""


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


if __name__ == "__main__":
    # `python -m tests.cluster.engine_programs ENVIRONMENT_FILE`: the run that gets killed.
    Engine(open_environment(sys.argv[1]), "services", print, stand_up_slowly).up(policies=False)
