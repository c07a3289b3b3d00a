"""What holds for every process that a test starts, and what is left when the last test has ended."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import prometheus_client  # noqa: F401  (before Feast, which would have it count in files that all tests share)
import pytest

from slipway.state import State


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach them: a shell that runs the tests in the background has it ignored, and so would they."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _without_socket_folders() -> Iterator[None]:
    """Take away those folders of sockets that lie beside pytest's own: `down` would, and not every test has one."""
    made: set[Path] = set()
    prepare = State.prepare

    def remember(state: State) -> None:
        made.add(state.sockets)
        prepare(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "prepare", remember)
        yield
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
