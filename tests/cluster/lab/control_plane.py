"""The control plane: etcd, API server, controller manager and scheduler, and kwok in the place of kubelets.

One instance is one cluster. It has no network, no DNS and no container; nodes are added by `nodes`.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.lab.certificates import Authority, create_signing_key
from tests.cluster.lab.processes import LabError, Process, free_ports, wait_until
from tests.cluster.tools.build import find_program, module_folder

Object = dict[str, Any]

SERVICES, PODS = "10.96.0.0/16", "10.244.0.0/16"
NODE_ANNOTATION = "kwok.x-k8s.io/node"
_NOTES = ("Event", "Lease", "ComponentStatus")
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_METADATA = "application/json;g=meta.k8s.io;v=v1;as=PartialObjectMetadataList"
_POD_STAGES = ("pod/fast/pod-ready", "pod/fast/pod-delete")
READY_WITHIN = 90.0
COMMAND_WITHIN = 120.0


class ControlPlane:
    """Started and stopped once; every file, keys and kubeconfigs included, lies below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        self._processes: list[Process] = []
        self._pki = folder / "pki"
        etcd, etcd_peers, api, manager, scheduler = free_ports(5)
        self._ports = {"etcd": etcd, "peers": etcd_peers, "manager": manager, "scheduler": scheduler}
        self.url = f"https://127.0.0.1:{api}"
        self._api_port = api
        self.webhook_host = "127.0.0.1"
        """Where the API server finds controllers of this machine."""

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the API server answers and controllers work. Raises LabError with the logs."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._create_certificates()
        self._start("etcd", self._etcd())
        self._start("kube-apiserver", self._api_server())
        self._wait("the API server is ready", lambda: self._ask("/readyz") == "ok")
        self._start("kube-controller-manager", self._controller_manager())
        self._start("kube-scheduler", self._scheduler())
        self._start("kwok", self._kwok())
        # Made by the controller manager: pods of the namespace are refused before.
        self._wait("controllers work", lambda: self._ask("/api/v1/namespaces/default/serviceaccounts/default"))

    def stop(self) -> None:
        """Ends its own processes, last started first."""
        while self._processes:
            self._processes.pop().stop()

    # --- what tests ask for -------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str | Path, text: str = "", within: float = COMMAND_WITHIN) -> str:
        """What kubectl prints. Raises LabError with what it complains of."""
        command = [str(find_program("kubectl")), "--kubeconfig", str(self.kubeconfig), *map(str, arguments)]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=within, env=self._environment(), check=False
        )
        if done.returncode:
            raise LabError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, objects: Iterable[Object]) -> None:
        """Server-side, with unknown fields refused; changes what others set. Definitions are in force then."""
        text = yaml.dump_all(list(objects), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        self._apply("--validate=strict", "-f", "-", text=text)

    def apply_files(self, files: Iterable[Path]) -> None:
        """Definitions, mostly: server-side, since the largest do not fit into an annotation."""
        self._apply(*(part for file in files for part in ("-f", str(file))))

    def _apply(self, *arguments: str, text: str = "") -> None:
        made = self.kubectl("apply", "--server-side", "--force-conflicts", "-o", "name", *arguments, text=text)
        # Not all that are there: some have a megabyte of schema.
        definitions = [name for name in made.split() if name.startswith("customresourcedefinition")]
        if definitions:
            self._wait("definitions are in force", lambda: self._are_established(definitions))

    def _are_established(self, definitions: Sequence[str]) -> bool:
        """False, too, for one that has no conditions yet, at which kubectl's own waiting ends with an error."""
        try:
            self.kubectl("wait", "--for=condition=Established", *definitions, "--timeout=60s")
        except LabError:
            return False
        return True

    def create_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        """Does nothing to one that is there but for its labels. Returns when pods can be made in it."""
        self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}])
        self._wait(f"namespace {name}", lambda: self._ask(f"/api/v1/namespaces/{name}/serviceaccounts/default"))

    def list(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        """Objects of a kind (`pods`, `clusterqueues.kueue.x-k8s.io`), of all namespaces unless one is named."""
        place = ("-n", namespace) if namespace else ("-A",)
        found: list[Object] = json.loads(self.kubectl("get", kind, *place, "-l", selector, "-o", "json"))["items"]
        return found

    def get(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """One object; None when it is not there."""
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Returns when it is gone, finalizers and all."""
        self.kubectl("delete", kind, name, "-n", namespace, "--ignore-not-found", "--timeout=60s")

    def inventory(self) -> set[str]:
        """Every object, as `kind.group namespace/name`, but for the notes that the cluster keeps of itself."""
        return {
            f"{kind} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
            for kind, path in self._kinds().items()
            for item in self._list_metadata(path)
        }

    def _kinds(self) -> dict[str, str]:
        """Kinds that can be listed, and where."""
        found: dict[str, str] = {}
        for root in ("api", "apis"):
            for group in json.loads(self._fetch(f"/{root}", _DISCOVERY))["items"]:
                name = group["metadata"].get("name", "")
                # The version that the API server prefers comes first, and here last.
                for version in reversed(group["versions"]):
                    # A group that another server should answer for, and does not, has none.
                    for resource in version.get("resources", []):
                        kind = f"{resource['responseKind']['kind']}.{name}"
                        if "list" in resource["verbs"] and kind.partition(".")[0] not in _NOTES:
                            place = "/".join(part for part in (root, name, version["version"]) if part)
                            found[kind] = f"/{place}/{resource['resource']}"
        return found

    def _list_metadata(self, path: str) -> Sequence[Object]:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                found: Sequence[Object] = json.loads(self._fetch(path, _METADATA))["items"] or []
                return found
            except urllib.error.HTTPError as error:
                if error.code == 404:  # its definition went meanwhile
                    return []
                # The kind is new, and its storage not ready.
                if error.code != 429 or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def pids(self) -> Sequence[int]:
        """Of its processes."""
        return [process.pid for process in self._processes]

    def raw(self, path: str) -> str | None:
        """What the API server answers at a path; None when there is nothing (yet)."""
        return self._ask(path)

    def kubeconfig_of(self, account: str, namespace: str) -> Path:
        """A kubeconfig with a token of this service account: who uses it may do what the account may, and no more."""
        token = self.kubectl("-n", namespace, "create", "token", account, "--duration=4h").strip()
        file = self.folder / f"{namespace}.{account}.kubeconfig"
        self._write_kubeconfig(file, account, self._pki / "cluster.crt", {"token": token})
        return file

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start(self, name: str, arguments: dict[str, Any]) -> None:
        options = [f"--{key}={value}" for key, value in arguments.items()]
        self._processes.append(Process(name, [find_program(name), *options], self.folder))

    def _etcd(self) -> dict[str, Any]:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "peers"))
        return {
            "name": "lab",
            "data-dir": self.folder / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"lab={peer}",
            # The data ends with the tests.
            "unsafe-no-fsync": "true",
        }

    def _api_server(self) -> dict[str, Any]:
        pki = self._pki
        return {
            "etcd-servers": f"http://127.0.0.1:{self._ports['etcd']}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self._api_port,
            # Its own Service may not have endpoints on loopback; it would try, and fail, for ever.
            "endpoint-reconciler-type": "none",
            "service-cluster-ip-range": SERVICES,
            "authorization-mode": "Node,RBAC",
            # As on real clusters: what refuses a privileged pod is its namespace.
            "allow-privileged": "true",
            "enable-admission-plugins": "NodeRestriction",
            "client-ca-file": pki / "cluster.crt",
            "tls-cert-file": pki / "apiserver.crt",
            "tls-private-key-file": pki / "apiserver.key",
            "service-account-key-file": pki / "service-accounts.pub",
            "service-account-signing-key-file": pki / "service-accounts.key",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "requestheader-client-ca-file": pki / "front-proxy.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": pki / "front-proxy-client.crt",
            "proxy-client-key-file": pki / "front-proxy-client.key",
            "profiling": "false",
        }

    def _controller_manager(self) -> dict[str, Any]:
        return self._client_of("manager") | {
            "use-service-account-credentials": "true",
            "service-account-private-key-file": self._pki / "service-accounts.key",
            "root-ca-file": self._pki / "cluster.crt",
            "cluster-cidr": PODS,
            "service-cluster-ip-range": SERVICES,
        }

    def _scheduler(self) -> dict[str, Any]:
        return self._client_of("scheduler")

    def _client_of(self, name: str) -> dict[str, Any]:
        file = self.folder / f"{name}.kubeconfig"
        options = dict.fromkeys(("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"), file)
        return options | {"bind-address": "127.0.0.1", "secure-port": self._ports[name], "leader-elect": "false"}

    def _kwok(self) -> dict[str, Any]:
        # It has no idea of a node's or pod's life built in; its module carries some.
        stages = module_folder("kwok", "sigs.k8s.io/kwok") / "kustomize" / "stage"
        # Without the one that completes Jobs: what a queue holds must stay until a test ends it.
        files = [stages / f"{name}.yaml" for name in ("node/fast/node-initialize", *_POD_STAGES)]
        config = self.folder / "kwok-stages.yaml"
        config.write_text("---\n".join(file.read_text() for file in files))
        return {
            "kubeconfig": self.kubeconfig,
            "config": config,
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": f"{NODE_ANNOTATION}=fake",
            "cidr": PODS,
            "node-ip": "127.0.0.1",
            "node-lease-duration-seconds": 40,
        }

    # --- trust --------------------------------------------------------------------------------------------------------

    def _create_certificates(self) -> None:
        cluster = Authority(self._pki, "cluster")
        names = ["localhost", "127.0.0.1", "10.96.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        cluster.sign("apiserver", common_name="kube-apiserver", hosts=names)
        Authority(self._pki, "front-proxy").sign("front-proxy-client")
        create_signing_key(self._pki)
        for name, user, group in (
            ("admin", "admin", "system:masters"),
            ("manager", "system:kube-controller-manager", ""),
            ("scheduler", "system:kube-scheduler", ""),
        ):
            pair = cluster.sign(name, common_name=user, group=group)
            credentials = {
                "client-certificate-data": _encoded(pair.certificate),
                "client-key-data": _encoded(pair.key),
            }
            self._write_kubeconfig(self.folder / f"{name}.kubeconfig", user, cluster.certificate, credentials)
        self._context = ssl.create_default_context(cafile=str(cluster.certificate))
        self._context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")

    def _write_kubeconfig(self, file: Path, user: str, authority: Path, credentials: dict[str, str]) -> None:
        cluster = {"server": self.url, "certificate-authority-data": _encoded(authority)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        }
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            json.dump(document, stream)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, path: str) -> str | None:
        try:
            return self._fetch(path)
        except OSError:
            return None

    def _fetch(self, path: str, accept: str = "application/json") -> str:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        request = urllib.request.Request(self.url + path, headers={"Accept": accept})  # noqa: S310 -- always https
        with opener.open(request, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def _wait(self, what: str, probe: Any) -> None:
        wait_until(what, probe, READY_WITHIN, self._processes)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "HOME": str(self.folder)}


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
