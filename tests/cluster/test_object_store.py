"""The object store as its pods run it: the server and the Job that makes the buckets, started as the program declares.

Nothing is put in another place: ports, paths and names are a pod's, in a network of its own. This machine reaches the
S3 port, and no other, at loopback. A pod that is not ready is not let to by its Service. The disk is as large as the
claim of profile core.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import httpx
import pandas as pd
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from feature_repo.definitions import OFFLINE
from feature_repo.flights.views import WEATHER
from feature_repo.parquet import open_files, schema_of
from feature_repo.publishing import publish_offline
from infra.components import names, object_store
from infra.quantity import parse_quantity
from slipway import pod as pods
from slipway import reports_mirror
from slipway.environment import Environment
from slipway.object_path import ObjectPath, open_store, walk_files
from slipway.pod import Pod
from slipway.snapshots import keep_snapshot, read_snapshot, write_rows
from tests.cluster.lab import relay
from tests.cluster.lab.certificates import Authority, Pair
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.processes import Process, free_ports, wait_until
from tests.cluster.lab.sealed_pods import SealedPods, write_secret
from tests.cluster.tools.build import find_program
from tests.infra.recorded_stack import recorded
from tests.integration import test_object_log
from tests.postgres_server import PostgresServer
from tests.unit.logged_rows import make_environment

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
NAME = "object-store"
USERS = [user.name for user in object_store.USERS]
POD, NOWHERE = "10.244.7.1", "192.0.2.1"
WITHIN = 60.0
IMAGE_FILES = {"/etc/seaweedfs/filer.toml": '[leveldb2]\nenabled = true\ndir = "/data/filerldb2"\n'}
"""What its image has besides the program."""
GRPC = 10_000 + object_store.PORT
"""S3's own, which cannot be switched off."""
EAGER = {"WEED_TLS_CERT_REFRESH_INTERVAL": "1s"}
"""Looks for a renewed certificate each second."""
MIB = 2**20


def find(kind: str, name: str = NAME) -> Object:
    return recorded().find(f"{kind}/{names.DATA}/{name}").inputs


def find_job() -> Object:
    jobs = recorded().of_kind("Job")
    (job,) = (each.inputs for each in jobs if each.metadata["name"].startswith(f"{NAME}-buckets-"))
    return job


def container_of(workload: Object) -> Object:
    found: Object = workload["spec"]["template"]["spec"]["containers"][0]
    return found


def encode(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: base64.b64encode(file.read_bytes()).decode() for name, file in files.items()}


class Store:
    """One object store: its network, its disk, and who signs its certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: Process | None = None
        self.is_eager = False
        self.authority = Authority(folder / "pki", "authority")
        self.hosts: list[str] = find("Certificate")["spec"]["dnsNames"]
        self.pair = self.sign("first")
        self.network = PrivateNetwork(folder / "network", "10.244.0.0/16", publish={"s3": f"{POD}:{object_store.PORT}"})
        self.pods = SealedPods(folder / "pods", self.network, [find_program("weed")], IMAGE_FILES)
        self.disk = self.pods.make_volume(
            "claim", find("PersistentVolumeClaim")["spec"]["resources"]["requests"]["storage"]
        )
        (port,) = free_ports(1)
        self.port = port
        way = f"127.0.0.1:{port}=unix:{self.network.socket('s3')}"
        self._relay = Process("relay", [sys.executable, "-I", relay.__file__, way], folder)
        self._starts = itertools.count()

    def sign(self, name: str) -> Pair:
        return self.authority.sign(name, hosts=[*self.hosts, "127.0.0.1"])

    def trust(self, authority: Authority | None = None) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=(authority or self.authority).certificate)

    def read_secret(self, name: str) -> Mapping[str, str]:
        if name == f"{NAME}-tls":
            return encode({"tls.crt": self.pair.certificate, "tls.key": self.pair.key})
        data: dict[str, str] = find("Secret", name)["data"]
        return data

    def start(self, environment: Mapping[str, str] | None = None) -> Process:
        """Until it is ready; until then its Service has no endpoint."""
        self.pods.resolve(dict.fromkeys(self.hosts, NOWHERE))
        name = f"server-{next(self._starts)}"
        server = self.pods.start(name, find("Deployment"), self.read_secret, {NAME: self.disk}, environment)
        probe = container_of(find("Deployment"))["readinessProbe"]
        wait_until("the store is ready", lambda: self.asked(probe), WITHIN, [server])
        self.pods.resolve(dict.fromkeys(self.hosts, POD))
        self.server, self.is_eager = server, environment is not None
        return server

    def asked(self, probe: Object) -> bool:
        """What the kubelet would find; it looks at no certificate."""
        request = probe["httpGet"]
        address = f"{request['scheme'].lower()}://127.0.0.1:{self.port}{request['path']}"
        try:
            return httpx.get(address, verify=False, trust_env=False, timeout=3).status_code == 200  # noqa: S501
        except httpx.HTTPError:
            return False

    def run_job(self, command: list[str] | None = None, ends_with: int = 0) -> Process:
        """Until it has ended, with its own command unless told another."""
        declared = find_job()
        pod = declared["spec"]["template"]["spec"]
        container = container_of(declared) | ({"command": command} if command else {})
        changed = {"spec": {"template": {"spec": pod | {"containers": [container]}}}}
        job = self.pods.start(f"job-{next(self._starts)}", changed, self.read_secret)
        wait_until("the Job ends", lambda: job.exit_code is not None, WITHIN)
        assert job.exit_code == ends_with, job.read_log()
        return job

    def credential(self, user: str) -> dict[str, str]:
        """A pod's Secret, with this machine's way to the store."""
        data = recorded().find(f"Secret/{names.SYSTEM}/objects-{user}").inputs["data"]
        told = {name: base64.b64decode(value).decode() for name, value in data.items()}
        assert told["url"] == f"https://{self.hosts[-1]}:{object_store.PORT}"
        return told | {"url": f"https://127.0.0.1:{self.port}", "authority": str(self.authority.certificate)}

    def client(self, user: str, **other: str) -> Any:
        """Amazon's own, as MLflow uses it; it asks once."""
        told = self.credential(user)
        keys = {name.lower(): told[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")} | other
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
        region = told["AWS_REGION"]
        return boto3.client(
            "s3", endpoint_url=told["url"], region_name=region, verify=told["authority"], config=config, **keys
        )

    def stop(self) -> None:
        self._relay.stop()
        self.network.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Started on an empty disk, with its buckets."""
    store = Store(tmp_path_factory.mktemp("store"))
    try:
        store.start()
        store.run_job()
        yield store
    finally:
        store.stop()


@pytest.fixture(scope="module")
def secrets(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is mounted in a pod that is given all credentials."""
    folder = tmp_path_factory.mktemp("secrets")
    files = {f"{user}/{name}": text for user in USERS for name, text in store.credential(user).items()}
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def environment(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("scratch"), Pod(secrets))


@pytest.fixture
def objects(secrets: Path) -> Callable[[str], ObjectPath]:
    return Pod(secrets).objects


def refusal(ask: Callable[[], object]) -> str:
    """The code of the error that the store answers."""
    with pytest.raises(ClientError) as refused:
        ask()
    return str(refused.value.response["Error"]["Code"])


def test_every_bucket_is_written_to_on_a_disk_of_the_claims_size(
    store: Store, objects: Callable[[str], ObjectPath]
) -> None:
    for user in USERS:
        (objects(user) / "first" / "object").write_bytes(user.encode())
    for user in USERS:
        assert (objects(user) / "first" / "object").read_bytes() == user.encode()
        assert store.client(user).list_buckets()["Buckets"][0]["Name"] == user
    # Nothing is taken in advance, and there is room for many more files.
    taken = sum(file.stat().st_blocks * 512 for file in store_files(store) if file.suffix == ".dat")
    assert taken < MIB
    assert len([file for file in store_files(store) if file.suffix == ".dat"]) <= len(USERS) + 1


def store_files(store: Store) -> list[Path]:
    assert store.server is not None
    return [file for file in Path(f"/proc/{store.server.pid}/root/data").rglob("*") if file.is_file()]


def test_the_job_runs_again_and_leaves_what_is_there(store: Store, objects: Callable[[str], ObjectPath]) -> None:
    (objects("reports") / "kept").write_bytes(b"1")
    job = store.run_job()
    assert "created" not in job.read_log()
    assert (objects("reports") / "kept").read_bytes() == b"1"


def test_a_bucket_that_is_missing_is_made_or_the_job_fails(store: Store) -> None:
    command = container_of(find_job())["command"]
    assert command[-len(USERS) :] == USERS
    # The name is how another begins.
    assert "created bucket report\n" in store.run_job([*command, "report"]).read_log() + "\n"
    store.run_job([*command, "No name of a bucket"], ends_with=1)


def test_its_certificate_is_good_for_every_name_of_its_service(store: Store) -> None:
    for host in store.hosts:
        with socket.create_connection(("127.0.0.1", store.port), timeout=10) as plain:
            store.trust().wrap_socket(plain, server_hostname=host).close()


def test_nobody_is_served_in_clear_or_by_trusting_another(store: Store, tmp_path: Path) -> None:
    answer = httpx.get(f"http://127.0.0.1:{store.port}/healthz", trust_env=False)
    assert (answer.status_code, answer.text.strip()) == (400, "Client sent an HTTP request to an HTTPS server.")
    told = store.credential("reports")
    stranger = open_store(
        told["url"],
        region=told["AWS_REGION"],
        key_id=told["AWS_ACCESS_KEY_ID"],
        key=told["AWS_SECRET_ACCESS_KEY"],
        authority=str(Authority(tmp_path / "pki", "authority").certificate),
    )
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        ObjectPath(stranger, "reports/first/object").read_bytes()


def reach(client: Any, user: str, other: str) -> list[Callable[[], object]]:
    """All that a user could try with another's bucket."""
    key = "first/object"
    return [
        lambda: client.get_object(Bucket=other, Key=key),
        lambda: client.put_object(Bucket=other, Key=key, Body=b"mine"),
        lambda: client.delete_object(Bucket=other, Key=key),
        lambda: client.list_objects_v2(Bucket=other),
        lambda: client.list_multipart_uploads(Bucket=other),
        lambda: client.create_multipart_upload(Bucket=other, Key="large"),
        lambda: client.copy_object(Bucket=user, Key="taken", CopySource=f"{other}/{key}"),
        lambda: client.copy_object(Bucket=other, Key="given", CopySource=f"{user}/{key}"),
        lambda: client.delete_bucket(Bucket=other),
    ]


def test_nobody_reaches_anothers_bucket(store: Store) -> None:
    for user, other in itertools.permutations(USERS, 2):
        client = store.client(user)
        codes = [refusal(each) for each in reach(client, user, other)]
        assert codes == ["AccessDenied"] * len(codes), (user, other)
        errors = client.delete_objects(Bucket=other, Delete={"Objects": [{"Key": "first/object"}]})["Errors"]
        assert [each["Code"] for each in errors] == ["AccessDenied"]
    for user in USERS:
        body = store.client(user).get_object(Bucket=user, Key="first/object")["Body"]
        assert body.read() == user.encode()


def test_nobody_makes_buckets_opens_them_or_makes_users(store: Store) -> None:
    client = store.client("registry")
    assert refusal(lambda: client.create_bucket(Bucket="another")) == "AccessDenied"
    assert refusal(lambda: client.delete_bucket(Bucket="registry")) == "AccessDenied"
    assert refusal(lambda: client.put_bucket_acl(Bucket="registry", ACL="public-read")) == "AccessDenied"
    assert refusal(lambda: client.put_bucket_policy(Bucket="registry", Policy="{}")) == "AccessDenied"
    with httpx.Client(base_url=f"https://127.0.0.1:{store.port}", verify=store.trust(), trust_env=False) as nobody:
        for action in ("CreateUser", "AssumeRole", "AssumeRoleWithWebIdentity"):
            assert nobody.post("/", data={"Action": action}).status_code == 405


def test_without_a_key_or_with_a_wrong_one_nothing_is_answered(store: Store) -> None:
    with httpx.Client(base_url=f"https://127.0.0.1:{store.port}", verify=store.trust(), trust_env=False) as nobody:
        for method, path in itertools.product(("GET", "PUT", "DELETE"), ("/registry", "/registry/first/object")):
            assert nobody.request(method, path).status_code == 403, (method, path)
        assert nobody.get("/").status_code == 403
    wrong = store.client("registry", aws_secret_access_key="wrong")
    assert refusal(lambda: wrong.list_objects_v2(Bucket="registry")) == "SignatureDoesNotMatch"
    other = store.client("registry", aws_secret_access_key=store.credential("reports")["AWS_SECRET_ACCESS_KEY"])
    assert refusal(lambda: other.list_objects_v2(Bucket="registry")) == "SignatureDoesNotMatch"
    unknown = store.client("registry", aws_access_key_id="unknown")
    assert refusal(lambda: unknown.list_objects_v2(Bucket="registry")) == "InvalidAccessKeyId"


def test_the_inference_log_goes_through_it(environment: Environment, secrets: Path) -> None:
    with PostgresServer() as postgres:
        (secrets / pods.DATABASE).mkdir()
        (secrets / pods.DATABASE / "url").write_text(postgres.make_database())
        test_object_log.test_rows_go_from_a_server_to_the_reader_once_whatever_is_taken_again(environment)
        test_object_log.test_a_day_that_is_over_becomes_one_file_and_an_old_one_goes(environment)


def test_history_snapshots_and_reports_go_through_it(environment: Environment, tmp_path: Path) -> None:
    for hour, temperature in ((6, 20.0), (7, 30.0), (6, 40.0)):  # the last replaces the first
        moment = pd.Timestamp(f"2013-01-07 {hour:02}:00", tz="UTC")
        frame = pd.DataFrame([dict.fromkeys(WEATHER.columns, 1.0) | {"origin": "JFK", "temp": temperature}])
        frame["event_timestamp"] = pd.Series([moment]).astype("datetime64[us, UTC]")
        publish_offline(environment, "weather", frame, as_of=moment.to_pydatetime(), name=f"{hour}")
    files = open_files(environment.state.history / OFFLINE / "weather", "*.parquet", schema_of(WEATHER))
    found = files.to_table().to_pandas().sort_values("event_timestamp")
    assert found["temp"].tolist() == [40.0, 30.0]

    write_rows(found, tmp_path / "rows.parquet")
    snapshot = keep_snapshot(environment, tmp_path / "rows.parquet")
    assert keep_snapshot(environment, tmp_path / "rows.parquet") == snapshot
    assert read_snapshot(environment, snapshot)["temp"].tolist() == [40.0, 30.0]

    report = environment.state.reports / "project" / "snapshots" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text("{}")
    reports_mirror.send(environment, report)
    report.unlink()
    assert reports_mirror.fetch(environment) > 0
    assert report.read_text() == "{}"


def test_objects_of_many_parts_come_back_as_they_were(store: Store, objects: Callable[[str], ObjectPath]) -> None:
    content = os.urandom(72 * MIB)
    file = objects("snapshots") / "large" / "object"
    with file.store.open_output_stream(str(file)) as stream:
        for start in range(0, len(content), MIB):
            stream.write(content[start : start + MIB])
    assert file.stat().st_size == len(content)
    assert file.read_bytes() == content
    # As MLflow sends and fetches artifacts, several parts at a time.
    client = store.client("registry")
    content = content[: 20 * MIB]
    client.upload_fileobj(io.BytesIO(content), "registry", "1/artifacts/large")
    fetched = io.BytesIO()
    client.download_fileobj("registry", "1/artifacts/large", fetched)
    assert fetched.getvalue() == content
    client.delete_object(Bucket="registry", Key="1/artifacts/large")


def test_more_objects_than_one_answer_holds_are_listed_whole(objects: Callable[[str], ObjectPath]) -> None:
    folder = objects("features") / "many"
    wanted = {f"{number:05}.parquet": number % 7 for number in range(1050)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda each: (folder / each[0]).write_bytes(b"x" * each[1]), wanted.items()))
    assert sorted(each.name for each in folder.iterdir()) == sorted(wanted)
    sizes = {path.rpartition("/")[2]: size for path, size, _ in walk_files(folder)}
    assert sizes == wanted
    (folder / "deep" / "00000.parquet").write_bytes(b"1")
    assert len(list(folder.glob("*.parquet"))) == len(wanted)


def test_an_object_is_replaced_moved_and_deleted(objects: Callable[[str], ObjectPath]) -> None:
    folder = objects("snapshots") / "folder"
    file, other = folder / "date=2013-03-01 a+b" / "1.parquet", folder / "other"
    for content in (b"first", b"", b"a longer one", b"last"):
        file.write_bytes(content)
        assert (file.read_bytes(), file.stat().st_size) == (content, len(content))
    file.replace(other)
    assert not file.exists()
    assert (other.read_bytes(), file.parent.is_dir()) == (b"last", True)
    file.parent.rmdir()
    assert list(folder.iterdir()) == [other]
    other.unlink()
    with pytest.raises(FileNotFoundError):
        other.unlink()
    with pytest.raises(FileNotFoundError):
        other.read_bytes()


def test_it_listens_where_a_policy_says_who_may_ask_and_nowhere_else(store: Store) -> None:
    assert store.server is not None
    ports = set()
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{store.server.pid}/net/{table}").read_text().splitlines()[1:]
        ports |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3] == "0A"}
    declared = {each["port"] for each in find("Service")["spec"]["ports"]}
    let = {port["port"] for rule in find("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    assert ports - {GRPC} == declared == let


def test_it_writes_to_its_volume_and_to_what_is_given_it_for_a_while(store: Store) -> None:
    assert store.server is not None
    scratch = Path(f"/proc/{store.server.pid}/root/tmp")
    assert {file.suffix for file in scratch.rglob("*") if not file.is_dir()} == {".sock"}
    said = store.server.log.read_text()
    assert "read-only file system" not in said.lower()
    assert "telemetry" not in said
    with pytest.raises(OSError, match="Read-only"):
        (scratch.parent / "file").write_text("")


def test_what_was_acknowledged_outlives_a_kill(
    store: Store, objects: Callable[[str], ObjectPath], tell: Callable[[str], None]
) -> None:
    folder = objects("inference-log") / "spool"
    kept: dict[str, bytes] = {}
    counter = itertools.count()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            number = next(counter)
            content = f"{number} ".encode() * (number % 4000)
            try:
                (folder / f"{number}.arrow").write_bytes(content)
            except OSError:
                return
            kept[f"{number}.arrow"] = content

    writers = [threading.Thread(target=write) for _ in range(8)]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + WITHIN
    while len(kept) < 100:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.server is not None
    memory = read_memory(store.server.pid)
    os.kill(store.server.pid, signal.SIGKILL)
    ended.set()
    for writer in writers:
        writer.join()
    started = time.monotonic()
    store.start(EAGER)
    ready = time.monotonic() - started
    for name, content in kept.items():
        assert (folder / name).read_bytes() == content, name
    assert {each.name for each in folder.iterdir()} >= set(kept)
    # Until the server knows its files again it takes no new object; who writes waits, and need not ask twice.
    (folder / "after").write_bytes(b"1")
    written = time.monotonic() - started
    assert store.client("inference-log").get_object(Bucket="inference-log", Key="spool/after")["Body"].read() == b"1"
    assert written < 30
    store.run_job()
    limit = parse_quantity(container_of(find("Deployment"))["resources"]["limits"]["memory"])
    assert memory < limit * 3 / 4
    tell(f"{memory / MIB:.0f} MiB (PSS); read {ready:.1f} s after a kill, written {written:.1f} s; {len(kept)} kept")


def read_memory(process: int) -> int:
    """Its proportional memory in bytes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def test_what_was_begun_and_never_ended_goes(store: Store) -> None:
    """The server is told to see to it every quarter of an hour; here that is typed, and no day waited for."""
    assert store.server is not None
    told = container_of(find("Deployment"))["env"]
    (script,) = (each["value"] for each in told if each["name"] == "WEED_MASTER_MAINTENANCE_SCRIPTS")
    assert f"adminScripts: {script}" in store.server.log.read_text()
    client = store.client("features")
    upload = client.create_multipart_upload(Bucket="features", Key="never")["UploadId"]
    client.upload_part(Bucket="features", Key="never", UploadId=upload, PartNumber=1, Body=bytes(MIB))
    for age, left in (("24h", 1), ("0s", 0)):
        time.sleep(1.1)  # it counts whole seconds
        line = f"lock; {script.replace('24h', age)}; unlock"
        shell = f"echo '{line}' | weed shell -master={NAME}:9333 -filer={NAME}:8888"
        ran = store.run_job(["/bin/sh", "-ec", shell])
        assert len(client.list_multipart_uploads(Bucket="features").get("Uploads", [])) == left, ran.read_log()


@pytest.fixture
def eager_store(store: Store) -> Store:
    """As it is after the test above, or started anew."""
    assert store.server is not None
    if not store.is_eager:
        store.server.stop()
        store.start(EAGER)
    return store


def test_a_renewed_certificate_is_shown_without_a_new_start(eager_store: Store) -> None:
    """Every five hours unless told otherwise; this server was told to look each second."""
    store = eager_store
    assert store.server is not None
    before = store.server.pid

    def shown() -> bytes | None:
        with (
            socket.create_connection(("127.0.0.1", store.port), timeout=10) as plain,
            store.trust().wrap_socket(plain, server_hostname=store.hosts[0]) as spoken,
        ):
            return spoken.getpeercert(binary_form=True)

    expected = ssl.PEM_cert_to_DER_cert(store.pair.certificate.read_text())
    assert shown() == expected
    store.pair = store.sign("renewed")
    (volume,) = (
        each for each in find("Deployment")["spec"]["template"]["spec"]["volumes"]
        if each.get("secret", {}).get("secretName") == f"{NAME}-tls"
    )  # fmt: skip
    write_secret(store.pods.mounted(store.server.name, volume["name"]), volume["secret"], store.read_secret)
    fresh = ssl.PEM_cert_to_DER_cert(store.pair.certificate.read_text())
    wait_until("the renewed certificate is shown", lambda: shown() == fresh, WITHIN)
    assert (store.server.pid, store.server.exit_code) == (before, None)


def test_told_to_stop_it_ends_well_within_its_time(store: Store) -> None:
    assert store.server is not None
    os.kill(store.server.pid, signal.SIGTERM)
    grace = find("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    server = store.server
    wait_until("it ends", lambda: server.exit_code is not None, grace)
    assert server.exit_code == 0
