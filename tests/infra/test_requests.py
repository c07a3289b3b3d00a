"""The table of requests: computed, current, and within what a laptop has."""

from __future__ import annotations

import pytest

from infra.requests import Amount, render_markdown, tabulate
from slipway.kubernetes_settings import PROFILES, Profile
from slipway.settings import REPOSITORY
from slipway.targets.kubernetes.machine_checks import DISK
from slipway.targets.kubernetes.requirements import ROOM
from tests.infra.recorded_stack import recorded

GIB = 2**30


def test_profile_core_fits_a_laptop_with_a_run_in_progress() -> None:
    table = tabulate(recorded())
    assert table.total.memory + table.jobs["pipeline-run"].memory <= 8 * GIB
    assert table.total.memory + table.jobs["training on Ray"].memory <= 9 * GIB
    assert table.total.cpu <= 2000


def test_a_part_counts_its_workloads_its_charts_and_what_operators_make() -> None:
    table = tabulate(recorded(profile="full"))
    # Two instances of 100m, 256 MiB and 20 GiB, and the operator.
    assert table.standing["database"] == Amount(220, (2 * 256 + 128) * 2**20, 40 * GIB)
    # Two servers of 100m and 512 MiB.
    assert table.standing["registry"] == Amount(200, GIB, 0)
    assert table.standing["monitoring"].disk == 20 * GIB


def test_a_part_that_is_switched_off_requests_nothing() -> None:
    assert "monitoring" not in tabulate(recorded(parts={"monitoring": {"enabled": False}})).standing


def test_a_larger_volume_is_counted() -> None:
    table = tabulate(recorded(parts={"object_store": {"storage": "1Ti"}}))
    assert table.standing["object_store"].disk == 1024 * GIB


def test_the_page_of_requests_is_current() -> None:
    page = (REPOSITORY / "docs" / "requests.md").read_text()
    assert page == render_markdown(), "python -m infra.requests > docs/requests.md"


@pytest.mark.parametrize("profile", PROFILES)
def test_doctor_asks_for_the_room_that_the_program_requests(profile: Profile) -> None:
    """What stands, and a training run, rounded up: no less would do, and hardly more is asked for."""
    table = tabulate(recorded(profile=profile))
    needed = table.total + table.jobs["pipeline-run"] + table.jobs["training on Ray"]
    for asked, wanted in zip(ROOM[profile], (needed.cpu / 1000, needed.memory / 2**30), strict=True):
        assert wanted <= asked < wanted * 1.3 + 1
    assert needed.disk / 2**30 + 20 <= DISK[profile] < (needed.disk / 2**30 + 20) * 1.3
