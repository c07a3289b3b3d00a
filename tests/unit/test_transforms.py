"""One transform for training and serving, named by a hash over what makes it."""

from __future__ import annotations

import ast
import types
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from feature_repo import transforms
from feature_repo.flights import transforms as flights
from feature_repo.transforms import find_transforms
from slipway.errors import InvalidInput, Unknown

SERVICE = "flight_delay_v1"


def _rows(count: int, seed: int = 0) -> pd.DataFrame:
    made, rng = find_transforms(SERVICE), np.random.default_rng(seed)
    start = pd.Timestamp(datetime(2013, 3, 9, tzinfo=UTC))
    rows = pd.DataFrame(
        {
            "carrier": rng.choice(flights.CARRIERS, count),
            "origin": rng.choice(flights.ORIGINS, count),
            "dest": rng.choice(flights.DESTS, count),
            "scheduled_departure": start + pd.to_timedelta(rng.integers(0, 3000, count), unit="min"),
            "scheduled_minutes": rng.integers(40, 400, count),
            "distance": rng.uniform(90, 2500, count),
        }
    )
    features = {name: rng.integers(0, 40, count).astype(float) for name in made.defaults}
    return rows.assign(**features)


def test_the_matrix_has_the_named_columns_as_float64_and_no_gaps() -> None:
    made = find_transforms(SERVICE)
    matrix = made.matrix(_rows(50))
    assert list(matrix.columns) == list(made.columns)
    assert set(matrix.dtypes) == {np.dtype("float64")}
    assert not matrix.isna().any().any()
    assert set(made.categorical) <= set(made.columns)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    made, rows = find_transforms(SERVICE), _rows(40)
    together = made.matrix(rows)
    alone = pd.concat([made.matrix(rows.iloc[[number]]) for number in range(len(rows))])
    pd.testing.assert_frame_equal(together, alone, check_exact=True)


def test_unknown_features_take_their_documented_defaults() -> None:
    made, rows = find_transforms(SERVICE), _rows(5)
    absent = made.matrix(rows[list(made.request)])
    null = made.matrix(rows.assign(**dict.fromkeys(made.defaults, np.nan)))
    spelled = made.matrix(rows.assign(**made.defaults))
    pd.testing.assert_frame_equal(absent, spelled)
    pd.testing.assert_frame_equal(null, spelled)


def test_every_feature_of_every_view_has_a_finite_default() -> None:
    made = find_transforms("flight_delay_early")
    named = {f"{view}__{feature}" for view, features in made.views.items() for feature in features}
    assert named == made.defaults.keys()
    assert np.isfinite(list(made.defaults.values())).all()


def test_the_clock_of_the_airport_counts_across_daylight_saving() -> None:
    rows = _rows(2).assign(
        scheduled_departure=pd.to_datetime(["2013-03-09T13:30:00Z", "2013-03-11T12:30:00Z"], utc=True)
    )
    assert find_transforms(SERVICE).matrix(rows)["hour"].tolist() == [8.5, 8.5]


def test_moments_may_be_given_as_text() -> None:
    rows = _rows(3)
    text = rows.assign(scheduled_departure=rows["scheduled_departure"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    made = find_transforms(SERVICE)
    pd.testing.assert_frame_equal(made.matrix(rows), made.matrix(text))


def test_a_code_never_heard_of_is_minus_one() -> None:
    matrix = find_transforms(SERVICE).matrix(_rows(1).assign(carrier="ZZ", dest="XXX"))
    assert matrix[["carrier", "dest"]].to_numpy().tolist() == [[-1.0, -1.0]]


def test_missing_request_fields_are_all_named() -> None:
    with pytest.raises(InvalidInput) as raised:
        find_transforms(SERVICE).matrix(_rows(1).drop(columns=["distance", "carrier"]))
    assert {problem.where for problem in raised.value.problems} == {"request.distance", "request.carrier"}


def test_an_unknown_service_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Unknown, match=r"flight_delay_v1"):
        find_transforms("flight_delay_v7")


def test_no_rows_make_an_empty_matrix() -> None:
    made = find_transforms(SERVICE)
    assert made.matrix(_rows(3).head(0)).shape == (0, len(made.columns))


def _module(code: str) -> types.ModuleType:
    return types.SimpleNamespace(code=code)  # type: ignore[return-value]


@pytest.fixture
def hash_of(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The hash of a service whose module has the given code."""
    made = find_transforms(SERVICE)
    monkeypatch.setattr(transforms.inspect, "getsource", lambda module: module.code)

    def compute(code: str, **changes: object) -> str:
        fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
        return transforms.Transforms(**{**fields, "modules": (_module(code),), **changes}).hash

    return compute


CODE = 'def rate(total, count):\n    """Words."""\n    return total / count\n'


def test_comments_docstrings_and_layout_do_not_change_the_hash(hash_of) -> None:  # type: ignore[no-untyped-def]
    told = 'LIMIT = 1\n"""What it is."""\n' + CODE
    retold = "# why\nLIMIT = 1\n\n\ndef rate(\n    total,\n    count,\n):\n    return (total / count)\n"
    assert hash_of(told) == hash_of(retold)
    assert ast.parse(told)


@pytest.mark.parametrize("other", [CODE.replace("/", "//"), CODE + "LIMIT = 2\n"])
def test_any_change_of_code_changes_the_hash(hash_of, other: str) -> None:  # type: ignore[no-untyped-def]
    assert hash_of(CODE) != hash_of(other)


def test_a_changed_view_or_column_changes_the_hash(hash_of) -> None:  # type: ignore[no-untyped-def]
    made = find_transforms(SERVICE)
    assert len({hash_of(CODE), hash_of(CODE, members=made.members[1:]), hash_of(CODE, columns=made.columns[1:])}) == 3


def test_services_differ_by_hash() -> None:
    assert find_transforms(SERVICE).hash != find_transforms("flight_delay_early").hash
