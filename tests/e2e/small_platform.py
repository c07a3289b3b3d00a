"""The whole platform with small versions: every process is the real one, each version trained, signed, registered.

The versions are trained in a moment on made-up flights whose delay follows from their length, so that a good and a bad
version can be made at will. Event time is moved by the test, a few days for each rollout.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import lightgbm
import numpy as np
import pandas as pd

from feature_repo.transforms import find_transforms
from slipway import tokens
from slipway.bundle import Golden, Manifest, TrainingSpan, fetch_bundle, verify_bundle, write_bundle
from slipway.clock import ReplayClock
from slipway.endpoints import gateway_url
from slipway.environment import Environment, open_environment
from slipway.errors import SlipwayError
from slipway.ledger import Ledger, chain, events, open_ledger, progress, releases, rollouts, runs, versions
from slipway.ledger.schema import ReleaseRow, RolloutRow
from slipway.registry import Registry
from slipway.signing import private_key_of, public_key_of
from slipway.targets import Traffic, open_target
from slipway.targets.local.lifecycle import all_processes
from slipway.targets.local.readiness import read_readiness
from slipway.targets.local.supervision import Supervisor
from tests.integration.flight_revision import MODEL, NOW, SERVICE, instance, publish_values, set_clock

DAY = timedelta(days=1)
ROWS = 5
"""In one request: the gateway splits requests, the labels are counted by row."""
REQUESTS = 520
"""For one step of a rollout: the contract asks for 500 answers."""
CONNECTIONS = 2
SETTINGS = """\
name = "small"
state_dir = "{state}"
[processes]
start_timeout = "4m"
"""

Found = TypeVar("Found")


@dataclass
class Asked:
    """What a client was answered."""

    answers: dict[int, int] = field(default_factory=dict)
    """Version -> requests."""
    failures: list[str] = field(default_factory=list)
    defaults: int = 0
    """Views that fell back to their defaults, summed over the requests."""
    ids: list[str] = field(default_factory=list)

    def add(self, other: Asked) -> None:
        for version, count in other.answers.items():
            self.answers[version] = self.answers.get(version, 0) + count
        self.failures += other.failures
        self.defaults += other.defaults
        self.ids += other.ids


def wait(condition: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """The first true answer. Raises AssertionError when the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds:.0f} s"
        time.sleep(0.1)
    return found


def slipway(environment: Environment, *arguments: str, expect: int = 0) -> str:
    """What a person would type; its standard output (its standard error when a failure is expected)."""
    command = [str(Path(sys.executable).with_name("slipway")), "--env", str(environment.file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expect, f"slipway {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stderr if expect else done.stdout


def make_environment(folder: Path, name: str = "environment") -> Environment:
    """An environment file in `folder` that names a state folder beside it."""
    file = folder / f"{name}.toml"
    file.write_text(SETTINGS.format(state=(folder / name).as_posix()))
    return open_environment(str(file))


class SmallPlatform:
    """A running platform, its outside world, and what a test asks of it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.ledger: Ledger = open_ledger(environment)
        self._registered = 0
        self._known: list[dict[str, Any]] = []
        """Labels of answered predictions that have not been delivered."""

    # --- the pipeline's part ------------------------------------------------------------------------------------------

    def register(self, *, good: bool = True) -> int:
        """Train, sign and register a version as the pipeline does; nobody is told of it yet."""
        self._registered += 1
        number = self._registered
        with tempfile.TemporaryDirectory(prefix="slipway-bundle-") as folder:
            return Registry(self.environment).register(
                MODEL, f"small-{number}", lambda version: self._build(Path(folder), version, number, good)
            )

    def announce(self, version: int) -> None:
        """Make the version known to the ledger, for a person to use: the controller takes no notice of it."""
        self._note(version, run_has_ended=False)

    def deliver(self, version: int) -> None:
        """Leave the version in the ledger as a run that has succeeded does; the controller takes it up from there."""
        self._note(version, run_has_ended=True)

    def _note(self, version: int, *, run_has_ended: bool) -> None:
        digest, now = self.manifest_of(version).content_digest, self.now()
        gate = {"verdict": "passed", "reasons": []}
        with self.ledger.transaction() as session:
            versions.add(session, MODEL, version, digest=digest, gate=gate, passed=True, as_of=now)
            if run_has_ended:
                run = runs.submit(session, key=f"delivery-{version}", model=MODEL, reason="test", as_of=now)
                runs.finish(session, run.id, "succeeded", version=version, outcome={})

    def _build(self, folder: Path, version: int, number: int, good: bool) -> Path:
        transforms = find_transforms(SERVICE)
        rows = pd.DataFrame([instance(row) for row in range(400)])
        rows = rows.assign(**dict.fromkeys(transforms.defaults, np.nan))
        late = np.array([is_late(row, random.Random(row)) for row in rows["scheduled_minutes"]])
        # Versions of one kind rank alike and answer differently, so that a canary tells good from bad and nothing else.
        parameters = {"objective": "binary", "num_leaves": 7, "verbosity": -1, "num_threads": 1, "seed": 1}
        parameters["learning_rate"] = 0.1 * (1 + number / 1000)
        matrix = transforms.matrix(rows)
        booster = lightgbm.train(parameters, lightgbm.Dataset(matrix, late if good else 1 - late), num_boost_round=15)
        golden = rows.head(5)
        manifest = Manifest(
            model=MODEL, version=version, created_as_of=self.now(), feature_service=SERVICE,
            transforms_hash=transforms.hash, columns=list(transforms.columns), code_hash="c" * 64, lock_hash="d" * 64,
            snapshot_id="e" * 64, training=TrainingSpan(start=NOW - 60 * DAY, end=NOW, rows=len(rows)),
            metrics={"auc": 0.8}, gate={"verdict": "passed", "reasons": []},
            golden=Golden(
                requests=[instance(row) for row in range(5)],
                features=[dict.fromkeys(transforms.defaults) for _ in range(5)],
                answers=booster.predict(transforms.matrix(golden), num_threads=1).tolist(),
            ),
        )  # fmt: skip
        draft = folder / "model.txt"
        booster.save_model(draft)
        key = private_key_of(self.environment)
        write_bundle(folder / "bundle", manifest=manifest, files={"model.txt": draft}, private_key=key)
        return folder / "bundle"

    # --- the outside world --------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self.environment.clock.as_of()

    def move_clock(self, step: timedelta) -> None:
        clock = self.environment.clock
        assert isinstance(clock, ReplayClock)
        clock.set(clock.as_of() + step)

    def ask(self, requests: int, rows: int = ROWS) -> Asked:
        """Ask for predictions through the gateway, once each; what was answered gets its label later."""
        asked, now, draw = Asked(), self.now(), random.Random()

        def ask_one(client: httpx.Client) -> None:
            flights = [flight(draw.randrange(5_000), now) for _ in range(rows)]
            try:
                answer = client.post(f"/v1/models/{MODEL}:predict", json={"instances": flights})
            except httpx.HTTPError as error:
                asked.failures.append(repr(error))
                return
            if answer.status_code != 200:
                asked.failures.append(f"{answer.status_code}: {answer.text[:200]}")
                return
            version = int(answer.headers["x-model-version"])
            asked.answers[version] = asked.answers.get(version, 0) + 1
            asked.defaults += int(answer.headers["x-feature-defaults"])
            for one, id_ in zip(flights, answer.json()["prediction_ids"], strict=True):
                label = {"model": MODEL, "prediction_id": id_, "value": is_late(one["scheduled_minutes"], draw)}
                self._known.append(label | {"known_at": (now + timedelta(hours=6)).isoformat()})
                asked.ids.append(id_)

        def ask_many(count: int) -> None:
            with self.client("predict") as client:
                for _ in range(count):
                    ask_one(client)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(ask_many, [math.ceil(requests / CONNECTIONS)] * CONNECTIONS))
        return asked

    def deliver_labels(self) -> None:
        """Send the labels that are known by now, again until they are taken."""
        now = self.now()
        known = [label for label in self._known if datetime.fromisoformat(label["known_at"]) <= now]

        def send() -> bool:
            try:
                with self.client("labels") as client:
                    answer = client.post("/api/labels", json={"labels": known})
            except httpx.HTTPError:
                return False
            assert answer.status_code in (200, 503), answer.text
            return answer.status_code == 200

        if known:
            wait(send, 90, "the acceptance of labels")
            self._known = [label for label in self._known if datetime.fromisoformat(label["known_at"]) > now]

    def client(self, role: tokens.Role) -> httpx.Client:
        token = tokens.read_token(self.environment, role)
        headers = {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=gateway_url(self.environment), headers=headers, timeout=10, trust_env=False)

    # --- what stands in the ledger ------------------------------------------------------------------------------------

    def release(self) -> ReleaseRow:
        with self.ledger.read() as session:
            return releases.require(session, MODEL)

    def rollout(self) -> RolloutRow | None:
        """The newest rollout, open or closed."""
        with self.ledger.read() as session:
            return next(reversed(rollouts.list_all(session, MODEL)), None)

    def launch_first(self) -> int:
        version = self.register()
        self.deliver(version)
        self.wait_for_rollout(version, rollouts.CLOSED)
        self.wait_until_settled()
        return version

    def wait_for_rollout(self, version: int, states: tuple[str, ...], limit: float = 180) -> RolloutRow:
        """Until the rollout of this version is in one of these states; no event time passes."""

        def found() -> RolloutRow | None:
            row = self.rollout()
            return row if row is not None and row.challenger == version and row.state in states else None

        return wait(found, limit, f"rollout of version {version} in {' or '.join(states)} ({self.describe()})")

    def wait_for_look(self, row: RolloutRow, limit: float = 20) -> None:
        """Until the rollout has moved, or the controller has dealt with everything up to now without moving it."""
        deadline, now = time.monotonic() + limit, self.now()
        while time.monotonic() < deadline:
            with self.ledger.read() as session:
                found = rollouts.open_for(session, MODEL)
                reached = progress.read(session)
            if found is None or (found.state, found.step) != (row.state, row.step):
                return
            if reached["controller"] >= now:
                return
            time.sleep(0.05)

    def wait_until_routed(self, challenger: int, limit: float = 90) -> None:
        """Until the gateway sends this version its share, or its rollout has ended."""
        target = open_target(self.environment)

        def routed() -> bool:
            row = self.rollout()
            try:
                traffic = target.read_traffic(MODEL)
            except SlipwayError:
                return False
            is_over = row is not None and row.state in rollouts.CLOSED
            return is_over or (traffic is not None and traffic.challenger == challenger)

        wait(routed, limit, f"traffic to version {challenger} ({self.describe()})")

    def wait_until_settled(self, limit: float = 180) -> None:
        """Until servers and traffic are those that the ledger asks for, and every process is ready."""
        target = open_target(self.environment)

        def settled() -> bool:
            release = self.release()
            wanted = {version: True for version in (release.champion, release.previous) if version is not None}
            try:
                traffic = target.read_traffic(MODEL)
            except SlipwayError:
                return False
            is_routed = traffic == Traffic(champion=release.champion or 0, previous=release.previous)
            return is_routed and target.list_revisions(MODEL) == wanted and self.is_ready()

        wait(settled, limit, f"rest ({self.describe()})")

    def is_ready(self) -> bool:
        try:
            statuses = Supervisor(self.environment).read_statuses()
        except SlipwayError:
            return False
        return all(read_readiness(all_processes(self.environment), statuses).values())

    def describe(self) -> str:
        row = self.rollout()
        return f"event time {self.now():%d %b}, rollout " + (
            f"{row.challenger} {row.state}: {row.reason}" if row else "-"
        )

    def manifest_of(self, version: int) -> Manifest:
        """What the registry holds under this number, fetched anew and verified."""
        with tempfile.TemporaryDirectory(prefix="slipway-fetched-") as folder:
            Registry(self.environment).download(MODEL, version, Path(folder))
            return verify_bundle(Path(folder), model=MODEL, version=version, public_key=public_key_of(self.environment))

    def check_one_verified_champion(self) -> None:
        """One champion, whose bundle verifies here and in the registry and is the one that the ledger knows."""
        with self.ledger.read() as session:
            assert events.verify(session) == []
            assert chain.verify_head(self.environment, session) == []
            release = releases.require(session, MODEL)
            champions = [row for row in versions.list_all(session, MODEL) if row.state == "champion"]
            assert [row.version for row in champions] == [release.champion]
            assert rollouts.open_for(session, MODEL) is None
            promotions = [event for event in events.read(session, MODEL) if event.kind in ("promoted", "rolled_back")]
            epochs = [event.evidence["epoch"] for event in promotions]
            assert epochs == list(range(1, release.epoch + 1)), "each epoch was won once"
        champion = champions[0]
        assert self.manifest_of(champion.version).content_digest == champion.digest
        assert fetch_bundle(self.environment, MODEL, champion.version).is_dir()
        asked = self.ask(8, rows=1)
        assert (asked.answers, asked.failures) == ({champion.version: 8}, [])

    # --- breaking it --------------------------------------------------------------------------------------------------

    def kill(self, process: str) -> None:
        """`kill -9`; waits a moment for a process that is just being started."""

        def pid() -> int:
            status = Supervisor(self.environment).read_statuses().get(process)
            return status.pid if status else 0

        os.kill(wait(pid, 30, f"process {process}"), signal.SIGKILL)

    @contextmanager
    def stopped(self, process: str) -> Iterator[None]:
        """The process is down for the time of the block."""
        supervisor = Supervisor(self.environment)
        supervisor.stop(process)
        wait(lambda: supervisor.read_statuses()[process].pid == 0, 40, f"the end of {process}")
        try:
            yield
        finally:
            supervisor.start(process)
            self.wait_until_settled()


@contextmanager
def run_platform(folder: Path) -> Iterator[SmallPlatform]:
    """A platform that was brought up by the command that people type, with its first version launched."""
    environment = make_environment(folder)
    environment.state.prepare()
    set_clock(environment, datetime(NOW.year, NOW.month, NOW.day, 12, tzinfo=UTC))
    publish_values(environment)
    try:
        slipway(environment, "up")
        platform = SmallPlatform(environment)
        platform.launch_first()
        yield platform
        platform.ledger.close()
    finally:
        slipway(environment, "down")


def flight(number: int, now: datetime) -> dict[str, Any]:
    """A request that follows the contract, asked one hour before its departure."""
    return instance(number) | {"scheduled_departure": (now + timedelta(hours=1)).isoformat()}


def is_late(minutes: int, draw: random.Random) -> int:
    """Long flights are late more often; nothing else matters."""
    return int(draw.random() < 1 / (1 + math.exp(-(minutes - 110) / 12)))
