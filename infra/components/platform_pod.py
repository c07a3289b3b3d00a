"""What the platform's own pods are told, and where: the counterpart of `slipway/pod.py`, which reads it.

Addresses come by variables. The environment file and everything secret come as files, one folder for each Secret: a
variable would be seen in every child process, in crash reports and by whoever may describe the pod.
"""

from __future__ import annotations

from collections.abc import Mapping

from infra.components import cache, database, names, object_store, registry
from infra.components.cert_manager import AUTHORITY_FILES
from infra.components.pods import SecretFiles
from slipway import environment, pod
from slipway.kubernetes_settings import BackendSettings, MirrorSettings
from slipway.settings import GatewaySettings, Settings

MOUNTS = "/etc/slipway"
STATE = "/state"
"""Scratch space of every pod of ours; nothing that must last is in it. It belongs to root, a folder in it to us."""
FOLDER = f"{STATE}/slipway"
SILENT = 300
"""Seconds without a beat after which a process is started anew: a pass may wait for several time-outs of others."""
_YOUNGER = "import os, sys, time; sys.exit(time.time() - os.stat(sys.argv[1]).st_mtime > float(sys.argv[2]))"
ENVIRONMENT, SIGNING, TOKENS = "environment", "signing", "tokens"
"""Secrets: the environment file and the public signing key; the private one; the tokens of the platform's doors."""
FILE = "environment.json"
NAMESPACES = (names.SYSTEM, names.TRAINING, names.SERVING)
"""Where pods of ours run."""

_FOLDERS = {
    ENVIRONMENT: pod.IDENTITY,
    SIGNING: pod.SIGNING,
    TOKENS: pod.TOKENS,
    # A pod is given one of these two: both lie in the same folder.
    database.LEDGER.secret: pod.DATABASE,
    database.FEATURES.secret: pod.DATABASE,
    object_store.INFERENCE_LOG.secret: pod.INFERENCE_LOG,
    object_store.FEATURES.secret: pod.FEATURES,
    object_store.SNAPSHOTS.secret: pod.SNAPSHOTS,
    object_store.REPORTS.secret: pod.REPORTS,
    object_store.PIPELINES.secret: pod.PIPELINES,
    registry.LOGIN: pod.LOGIN,
    cache.SECRET: pod.CACHE,
}

_SERVERS = {
    *(user.secret for user in (*object_store.USERS, object_store.PIPELINES, database.LEDGER, database.FEATURES)),
    registry.LOGIN,
    cache.SECRET,
}


def variables(registry_url: str = "", *, listen: int = 0) -> Mapping[str, str]:
    """The variables of a pod: of MLflow if it speaks to it; `listen` is the port that it serves, if it does."""
    told = {
        "HOME": "/tmp",  # noqa: S108  (a folder of the pod)
        environment.VARIABLE: f"{MOUNTS}/{pod.IDENTITY}/{FILE}",
        pod.SECRETS: MOUNTS,
    }
    return (
        told
        | ({pod.REGISTRY: registry_url} if registry_url else {})
        | ({pod.LISTEN: f"0.0.0.0:{listen}"} if listen else {})
    )


def files(*secrets: str) -> tuple[SecretFiles, ...]:
    """The environment file, and those Secrets that a pod needs besides; with the address of a server that shows a
    certificate of our authority comes the authority's own.
    """
    trusting = (AUTHORITY_FILES,) if _SERVERS.intersection(secrets) else ()
    return (*(SecretFiles(f"{MOUNTS}/{_FOLDERS[secret]}", secret) for secret in (ENVIRONMENT, *secrets)), *trusting)


def folders(*secrets: str) -> Mapping[str, str]:
    """The same by name and folder, where a pod can be given whole Secrets only."""
    return {each.name: each.path for each in files(*secrets)}


def alive(process: str) -> tuple[str, ...]:
    """Succeeds while this process beats: once a turn of its loop, which no step of its own may hold up for longer.

    Cheap enough to ask for every few seconds: a bare interpreter that looks at one file.
    """
    return ("python", "-I", "-S", "-c", _YOUNGER, f"{FOLDER}/run/heartbeats/{process}", str(SILENT))


def environment_file(settings: Settings) -> str:
    """The settings as pods see them: their own folder, and nothing that names a file of the machine that installs."""
    if settings.kubernetes is None:
        raise ValueError("only an environment on Kubernetes has pods")
    cluster = settings.kubernetes.model_copy(
        update={"kubeconfig": None, "context": "", "backend": BackendSettings(), "mirror": MirrorSettings()}
    )
    told = settings.model_copy(update={"state_dir": FOLDER, "gateway": GatewaySettings(), "kubernetes": cluster})
    return told.model_dump_json(indent=1)
