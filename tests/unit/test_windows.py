"""Windows are aligned to the epoch, whole, and written as people write them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.windows import EPOCH, Window, ended_windows, parse_window, window_of
from slipway.errors import InvalidInput

WEEK = timedelta(days=7)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(MOMENTS, st.sampled_from([timedelta(hours=1), timedelta(days=1), WEEK, timedelta(days=30)]))
def test_a_window_is_aligned_to_the_epoch_and_holds_its_moment(moment: datetime, length: timedelta) -> None:
    window = window_of(moment, length)
    assert window.start <= moment < window.end
    assert window.end - window.start == length
    assert (window.start - EPOCH) % length == timedelta(0)


@given(MOMENTS, st.integers(0, 200))
def test_windows_follow_one_another_and_none_is_left_out(since: datetime, days: int) -> None:
    as_of = since + timedelta(days=days)
    windows = ended_windows(WEEK, since, as_of)
    assert all(window.end > since and window.end <= as_of for window in windows)
    assert all(before.end == after.start for before, after in itertools.pairwise(windows))
    assert (window_of(since, WEEK).end <= as_of) == bool(windows)
    # A later look gives the same windows and then some: a restart moves none of them.
    assert ended_windows(WEEK, since, as_of + WEEK)[: len(windows)] == windows


def test_a_window_ends_with_the_moment_at_which_it_is_over() -> None:
    since = datetime(2013, 3, 7, tzinfo=UTC)
    assert ended_windows(WEEK, since, since + WEEK - timedelta(microseconds=1)) == []
    assert ended_windows(WEEK, since, since + WEEK) == [Window(since, since + WEEK)]


def test_a_span_is_read_as_it_is_written() -> None:
    window = Window(datetime(2013, 3, 7, tzinfo=UTC), datetime(2013, 3, 14, tzinfo=UTC))
    assert str(window) == "2013-03-07T00:00:00Z/2013-03-14T00:00:00Z"
    assert parse_window(str(window)) == parse_window("2013-03-07/2013-03-14") == window
    assert parse_window("2013-03-07T02:00:00+02:00/2013-03-14") == window


@pytest.mark.parametrize("text", ["2013-03-07", "March/April", "2013-03-14/2013-03-07", "2013-03-07/2013-03-07", ""])
def test_a_span_that_is_none_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"START/END|before it begins"):
        parse_window(text)
