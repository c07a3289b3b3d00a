"""Two real controllers on one real Lease and one real PostgreSQL: one decides, and another goes on when it is gone.

Who decided is told by the database itself: a trigger writes down which connection reported progress, and in what order.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from infra.components import names, platform_pod
from slipway import pod as pods
from slipway.controller import leadership
from slipway.controller.leadership import LASTS, RETRY
from slipway.environment import VARIABLE
from tests.cluster.lab.control_plane import ControlPlane
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.cluster

READY_WITHIN = 60.0
TAKEN_OVER_WITHIN = LASTS + RETRY + 45.0
_AUDIT = """
CREATE TABLE audit (number bigserial PRIMARY KEY, who text);
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO audit (who) VALUES (current_setting('application_name')); RETURN NEW; END $$;
CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON progress FOR EACH ROW EXECUTE FUNCTION write_down();
"""


class Field:
    """A cluster, a database, and controllers that are started in it."""

    def __init__(self, folder: Path, kubeconfig: Path, url: str) -> None:
        self.folder = folder
        self.url = f"postgresql://{url.partition('://')[2]}"
        self.log = folder / "log"
        secrets = folder / "secrets"
        for name in (pods.DATABASE, pods.IDENTITY, pods.SIGNING):
            (secrets / name).mkdir(parents=True, mode=0o700)
        (secrets / pods.DATABASE / "url").write_text(url)
        self.secrets = secrets
        self.kubeconfig = kubeconfig

    @contextmanager
    def controller(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """A controller's process, as in a pod called `name`, with the rights of the controller's own account."""
        settings = {
            "name": "lab", "target": "kubernetes", "state_dir": str(self.folder / name),
            "kubernetes": {"provider": "existing", "kubeconfig": str(self.kubeconfig)},
        }  # fmt: skip
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(settings))
        told = os.environ | {VARIABLE: str(file), pods.SECRETS: str(self.secrets), "PGAPPNAME": name}
        with self.log.open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "slipway.controller"], env=told, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(timeout=30)

    def decided(self) -> list[str]:
        """Who decided, in order."""
        with psycopg.connect(self.url) as connection:
            return [row[0] for row in connection.execute("SELECT who FROM audit ORDER BY number")]

    def prepare(self) -> None:
        from slipway.ledger import Ledger
        from slipway.ledger.migration import migrate

        ledger = Ledger(f"postgresql+psycopg://{self.url.partition('://')[2]}")
        migrate(ledger)
        ledger.close()
        with psycopg.connect(self.url) as connection:
            connection.execute(_AUDIT)

    def wait(self, until: Callable[[], bool], within: float, what: str) -> None:
        deadline = time.monotonic() + within
        while not until():
            assert time.monotonic() < deadline, f"{what} did not come true\n{self.log.read_text()[-4000:]}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def field(
    tmp_path: Path, control_plane: ControlPlane, controller_kubeconfig: Path, postgres: PostgresServer
) -> Iterator[Field]:
    control_plane.delete("lease", leadership.NAME, leadership.NAMESPACE)
    field = Field(tmp_path, controller_kubeconfig, postgres.make_database())
    field.prepare()
    yield field


def _turns(decided: list[str]) -> list[str]:
    """Who decided after whom: repetitions in a row are one."""
    return [who for place, who in enumerate(decided) if place == 0 or decided[place - 1] != who]


def test_the_lease_is_where_the_program_gives_the_right_to_it() -> None:
    assert leadership.NAMESPACE == names.SYSTEM
    assert platform_pod.NAMESPACES[0] == names.SYSTEM


def test_when_the_leader_is_killed_the_other_takes_over_and_only_one_decides(field: Field) -> None:
    with field.controller("one") as one:
        field.wait(lambda: "one" in field.decided(), READY_WITHIN, "the first controller's decision")
        with field.controller("two"):
            field.wait(lambda: field.log.read_text().count("standing by") == 2, READY_WITHIN, "the standby")
            before = len(field.decided())
            field.wait(lambda: len(field.decided()) > before + 1, READY_WITHIN, "the leader's next decisions")
            # A starved machine may have ended the leader already; while it lives, nobody else decides.
            assert _turns(field.decided()) == ["one"] or one.poll() is not None
            os.kill(one.pid, signal.SIGKILL)
            field.wait(lambda: "two" in field.decided(), TAKEN_OVER_WITHIN, "the other's decision")
            assert _turns(field.decided()) == ["one", "two"]


def test_a_leader_that_was_frozen_decides_nothing_when_it_wakes(field: Field) -> None:
    with field.controller("one") as one:
        field.wait(lambda: "one" in field.decided(), READY_WITHIN, "the first controller's decision")
        with field.controller("two"):
            field.wait(lambda: field.log.read_text().count("standing by") == 2, READY_WITHIN, "the standby")
            os.kill(one.pid, signal.SIGSTOP)
            field.wait(lambda: "two" in field.decided(), TAKEN_OVER_WITHIN, "the other's decision")
            os.kill(one.pid, signal.SIGCONT)
            field.wait(lambda: one.poll() is not None, READY_WITHIN, "the end of who no longer leads")
            before = len(field.decided())
            field.wait(lambda: len(field.decided()) > before + 1, READY_WITHIN, "the new leader's next decisions")
            assert _turns(field.decided()) == ["one", "two"]
            assert one.returncode == 1


def test_a_leader_that_ends_cleanly_hands_over_at_once(field: Field, control_plane: ControlPlane) -> None:
    with field.controller("one") as one:
        field.wait(lambda: "one" in field.decided(), READY_WITHIN, "the first controller's decision")
        one.terminate()
        assert one.wait(timeout=READY_WITHIN) == 0
        lease = control_plane.get("lease", leadership.NAME, leadership.NAMESPACE)
        assert lease is not None
        assert not lease["spec"].get("holderIdentity")
        with field.controller("two"):
            field.wait(lambda: "two" in field.decided(), READY_WITHIN, "the other's decision")
