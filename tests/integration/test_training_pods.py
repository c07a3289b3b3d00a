"""Training in a cluster's pods: one publishes, another trains, a third watches, and they share no folder.

Each process is given the command, variables and files of its pod as the program declares it. What they share is real:
an S3 server, PostgreSQL, Valkey, and MLflow with its tables in the one and its artifacts in the other.
"""

from __future__ import annotations

import copy
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from feature_repo.store import ONLINE
from infra.components import cache, names, object_store, pipelines, platform_pod
from infra.components.cert_manager import AUTHORITY
from infra.recording import Recording, record
from infra.services.program import stand_up
from pipelines import jobs
from pipelines.steps import STEPS
from pipelines.task import Run
from slipway import pod as pods
from slipway.environment import Environment
from slipway.ledger import open_ledger, releases, versions
from slipway.pod import Pod
from slipway.settings import Settings
from tests.declared_pod import DeclaredPod
from tests.integration.registry_pod import DECLARED, registry_pod
from tests.integration.valkey_server import valkey_server
from tests.postgres_server import PostgresServer
from tests.s3_server import credentials, s3_server

pytestmark = pytest.mark.integration

Object = dict[str, Any]
MODEL = "flight_delay"
AS_OF = datetime(2013, 3, 2, tzinfo=UTC)
RUN = Run(1, f"{MODEL}/first", MODEL, AS_OF, None, {})
WITHIN = 900.0


@dataclass(frozen=True)
class Cluster:
    """What the program declares, and the addresses that stand for those of the cluster."""

    recording: Recording
    replaced: Mapping[str, str]
    files: Mapping[str, str]

    def find(self, kind: str, namespace: str, name: str) -> Object:
        return copy.deepcopy(self.recording.find(f"{kind}/{namespace}/{name}").inputs)

    def job(self, run: Run, attempt: int) -> Object:
        """As the runner would make it."""
        return jobs.describe(run, attempt, WITHIN, self.find("CronJob", names.TRAINING, pipelines.TEMPLATE))

    @contextmanager
    def pod(self, workload: Object, namespace: str) -> Iterator[DeclaredPod]:
        """A pod with an empty disk, in a folder whose path leaves room for Ray's sockets."""
        folder = Path("/tmp") / secrets.token_hex(2)
        folder.mkdir(mode=0o700)

        def read_secret(name: str) -> Mapping[str, str]:
            data: dict[str, str] = self.find("Secret", namespace, name)["data"]
            return data

        try:
            with DeclaredPod(folder, workload, read_secret, replaced=self.replaced, files=self.files) as pod:
                yield pod
        finally:
            shutil.rmtree(folder)


def container_of(workload: Object) -> Object:
    spec = workload["spec"]
    spec = spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec
    (container,) = spec["template"]["spec"]["containers"]
    found: Object = container
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("cluster")
    settings = Settings.model_validate(
        {
            "name": "test",
            "target": "kubernetes",
            "state_dir": root / "state",
            "processes": {"start_timeout": "300s"},
            "ray": {"start_timeout": "300s"},
            "kubernetes": {},
        }
    )
    recording = record(lambda: stand_up(settings))
    with s3_server() as objects, PostgresServer() as postgres, valkey_server(root) as valkey:
        given = credentials(objects, "cluster") | {ONLINE: valkey, f"{pods.DATABASE}/url": postgres.make_database()}
        with registry_pod(root / "mlflow", recording, postgres.make_database(), objects) as registry:
            # Whom to trust is read where the program says that it is.
            own = {name: text for name, text in given.items() if not name.endswith("/authority")}
            authorities = (registry.authority.certificate, objects.authority)
            own[f"{pods.AUTHORITY}/ca.crt"] = "".join(each.read_text() for each in authorities)
            files = {f"{platform_pod.MOUNTS}/{name}": text for name, text in own.items()}
            yield Cluster(recording, {DECLARED: registry.url}, files)


def _wait(done: Callable[[], bool], said: Callable[[], str], within: float = WITHIN) -> None:
    deadline = time.monotonic() + within
    while not done():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)


PUBLISH = """
from datetime import UTC, datetime
from pipelines.flight_delay.replay.publisher import FIRST_DAY, Publisher
from slipway.environment import open_environment
Publisher(open_environment()).publish_span(FIRST_DAY, datetime(2013, 3, 2, tzinfo=UTC))
"""


@pytest.fixture(scope="module")
def published(cluster: Cluster) -> None:
    """By a pod that is given the history and the online store, and nothing else."""
    job = cluster.job(RUN, 1)
    container = container_of(job)
    container["command"] = ["python", "-c", PUBLISH]
    wanted = {platform_pod.ENVIRONMENT, AUTHORITY, object_store.FEATURES.secret}
    spec = job["spec"]["template"]["spec"]
    given = [each for each in spec["volumes"] if "secret" not in each or each["secret"]["secretName"] in wanted]
    spec["volumes"] = [*given, {"name": "cache", "secret": {"secretName": cache.SECRET}}]
    mounted = {volume["name"] for volume in given}
    container["volumeMounts"] = [
        *(mount for mount in container["volumeMounts"] if mount["name"] in mounted),
        {"name": "cache", "mountPath": f"{platform_pod.MOUNTS}/{pods.CACHE}"},
    ]
    with cluster.pod(job, names.TRAINING) as pod:
        pod.wait_done(WITHIN)


@pytest.fixture(scope="module")
def registered(cluster: Cluster, published: None) -> Object:
    """What a run registered, in a pod of its own with an empty disk."""
    with cluster.pod(cluster.job(RUN, 1), names.TRAINING) as pod:
        pod.wait_done(WITHIN)
        lines = jobs.read_progress(pod.log.read_text())
    steps = [(line["step"], line["state"]) for line in lines]
    assert steps == [(step, state) for step in STEPS for state in ("begun", "ended")]
    found: Object = lines[-1]["values"]
    return found


def environment_of(cluster: Cluster, folder: Path) -> Environment:
    """What a pod of the control plane works in, for what this test does in its place."""
    authority = str(folder / pods.AUTHORITY / "ca.crt")
    told = {f"{platform_pod.MOUNTS}/{user.name}/authority": authority for user in object_store.USERS}
    for name, text in (cluster.files | told).items():
        file = folder / Path(name).relative_to(platform_pod.MOUNTS)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    environment = Environment(folder / "x", Settings(name="test", state_dir=folder / "state"), Pod(folder))
    environment.state.prepare()
    return environment


def test_a_run_finds_what_another_pod_published_and_ends_with_a_version(registered: Object) -> None:
    assert (registered["version"], registered["verdict"]) == (1, "passed")
    assert registered["gate"]["value"] > 0.68


def test_a_monitor_finds_the_rows_that_the_version_was_trained_on(
    cluster: Cluster, registered: Object, tmp_path: Path
) -> None:
    ledger = open_ledger(environment_of(cluster, tmp_path))
    with ledger.transaction() as session:
        gate, digest = registered["gate"], registered["digest"]
        versions.add(session, MODEL, 1, digest=digest, gate=gate, passed=True, as_of=AS_OF)
        releases.promote(session, MODEL, 1, epoch=0, actor="test", reason="first", as_of=AS_OF)
    ledger.close()
    monitor = cluster.find("CronJob", names.SYSTEM, "monitor-flight-delay")
    span = f"{AS_OF.isoformat()}/{(AS_OF + timedelta(days=7)).isoformat()}"
    container_of(monitor)["command"] += ["--once", MODEL, "--window", span, "--kind", "drift"]
    del container_of(monitor)["command"][3:5]  # what the schedule asks for
    with cluster.pod(monitor, names.SYSTEM) as pod:
        pod.wait_done(WITHIN)
        finding = json.loads(pod.log.read_text().splitlines()[-1])
    # Nobody has asked the version anything yet; had the sample been missing, that would be the reason.
    assert finding["reason"].startswith("0 rows, fewer than"), finding


@pytest.mark.filterwarnings("ignore")  # what Evidently imports warns
def test_the_pod_that_shows_reports_shows_what_another_keeps(cluster: Cluster, tmp_path: Path) -> None:
    from evidently.metrics import RowCount

    from monitoring.reports import Reports, measure
    from monitoring.windows import Window

    monitor = Reports(environment_of(cluster, tmp_path))
    run, _ = measure([RowCount()], pd.DataFrame({"distance": [1.0, 2.0]}), None, numerical=["distance"])

    def keep(week: int) -> str:
        window = Window(AS_OF + week * timedelta(days=7), AS_OF + (week + 1) * timedelta(days=7))
        return monitor.keep(run, model=MODEL, kind="quality", version=1, window=window, facts={})

    first = keep(0)
    with cluster.pod(cluster.find("Deployment", names.SYSTEM, "reports"), names.SYSTEM) as pod:
        pod.wait_ready(WITHIN)
        with httpx.Client(base_url=f"http://127.0.0.1:{pod.port}", trust_env=False) as asking:
            (project,) = asking.get("/api/projects").json()

            def shown() -> int:
                return len(asking.get(f"/api/projects/{project['id']}/reports").json())

            assert (project["name"], shown()) == (MODEL, 1)
            keep(1)
            _wait(lambda: shown() == 2, pod.said, within=120)
            monitor.remove(MODEL, first)
            _wait(lambda: shown() == 1, pod.said, within=120)
        pod.stop(60)
