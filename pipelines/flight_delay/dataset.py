"""The training rows of flight_delay and what must be true of them.

A row is one flight as it was asked about, one hour before scheduled departure. Its label is 1 when it arrives more than
15 minutes late or not at all, and is known at landing, two hours after schedule (cancelled), or four hours after
scheduled arrival (diverted). The limits below are absolute: limits learned from old data would stop exactly the
retraining that a change of the data calls for.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from feature_repo.flights.transforms import CARRIERS, ORIGINS
from pipelines.flight_delay.events import ASKED_AHEAD, KEYS, read_outcomes, read_schedule
from pipelines.flight_delay.leaks import find_separating
from slipway.environment import Environment
from slipway.errors import Problem

LEAST_ROWS_A_DAY = 200
"""The three airports have 600 to 1,000 departures on every day of the year."""
STALE_AFTER = timedelta(days=3)
LEAST_WITH_FEATURES = 0.5
"""Share of rows for which a view must have had a value."""
PREVALENCE = (0.05, 0.60)
"""A label share outside is worth a look, never a reason to stop."""


def entities(environment: Environment, *, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
    """One row for each flight with scheduled departure in [start, end) that has been asked about by as_of.

    Columns: the contract's request fields, `event_timestamp` (moment of prediction), `label` (float64, NaN while
    unknown at as_of) and `label_known_at` (null while unknown). Times are UTC; rows by scheduled departure.
    """
    schedule = read_schedule(environment, start=start, end=end, as_of=as_of).drop(columns="published")
    schedule["event_timestamp"] = (schedule["scheduled_departure"] - ASKED_AHEAD).astype("datetime64[us, UTC]")
    schedule = schedule[schedule["event_timestamp"] <= pd.Timestamp(as_of)]
    outcomes = read_outcomes(environment, start=start, end=end, as_of=as_of)[[*KEYS, "late", "known_at"]]
    rows = schedule.merge(outcomes, on=KEYS, how="left", validate="one_to_one")
    rows["label"] = rows.pop("late").astype("float64")
    rows["label_known_at"] = rows.pop("known_at").astype("datetime64[us, UTC]")
    return rows


def _limits() -> dict[str, tuple[float, float, float]]:
    """Column to its least and largest plausible value and the largest share of nulls.

    Numbers of features are per row; a null means that nothing was known at the moment. They are wide enough for any
    weather and any season and narrow enough for a wrong unit: Celsius temperatures and kilometres break them.
    """
    limits = {
        "flight": (1.0, 9999.0, 0.0),
        "scheduled_minutes": (15.0, 1000.0, 0.0),
        "distance": (10.0, 6000.0, 0.0),
        "label": (0.0, 1.0, 1.0),
        "weather__temp": (-40.0, 120.0, 0.5),
        "weather__dewp": (-60.0, 90.0, 0.5),
        "weather__humid": (0.0, 100.0, 0.5),
        "weather__wind_dir": (0.0, 360.0, 0.5),
        "weather__wind_speed": (0.0, 120.0, 0.5),
        "weather__precip": (0.0, 10.0, 0.5),
        "weather__precip_6h": (0.0, 20.0, 0.5),
        "weather__pressure": (900.0, 1085.0, 0.6),
        "weather__pressure_change_3h": (-40.0, 40.0, 0.7),
        "weather__visib": (0.0, 20.0, 0.5),
        "weather__visib_min_3h": (0.0, 20.0, 0.5),
        "route_history__flights_28d": (0.0, 2_000.0, 0.5),
        "route_history__late_28d": (0.0, 2_000.0, 0.5),
        "flight_status__departure_delay": (-120.0, 3_000.0, 1.0),
    }
    for view in ("origin_traffic", "carrier_traffic", "dest_traffic"):
        for hours in (1, 3, 12):
            limits[f"{view}__departures_{hours}h"] = (0.0, 100.0 * hours, 0.5)
            limits[f"{view}__late_{hours}h"] = (0.0, 100.0 * hours, 0.5)
            limits[f"{view}__delay_{hours}h"] = (-3_000.0 * hours, 18_000.0 * hours, 0.5)
        limits[f"{view}__arrivals_3h"] = (0.0, 300.0, 0.5)
        limits[f"{view}__arrival_delay_3h"] = (-9_000.0, 54_000.0, 0.5)
        limits[f"{view}__overdue"] = (0.0, 400.0, 0.5)
        limits[f"{view}__overdue_minutes"] = (0.0, 96_000.0, 0.5)
    limits["origin_traffic__scheduled_1h"] = limits["origin_traffic__scheduled_2h"] = (0.0, 120.0, 0.5)
    return limits


def _typical() -> dict[str, tuple[float, float]]:
    """Column to the limits of its mean over a snapshot: they tell units apart where single values cannot.

    A Celsius temperature is a plausible Fahrenheit one; a month of them is not. So are metres per second.
    """
    return {
        "distance": (500.0, 1_400.0),
        "scheduled_minutes": (100.0, 260.0),
        "weather__temp": (20.0, 90.0),
        "weather__dewp": (5.0, 75.0),
        "weather__humid": (30.0, 95.0),
        "weather__wind_speed": (6.0, 25.0),
        "weather__pressure": (1_000.0, 1_035.0),
        "weather__visib": (5.0, 10.5),
    }


def _schema() -> Any:
    """The snapshot's schema: keys and times always there, every feature within its limits."""
    import pandera.pandas as pa

    checks: dict[str, Any] = {
        "carrier": pa.Column(str, pa.Check.isin(CARRIERS, error="no carrier of New York's airports")),
        "origin": pa.Column(str, pa.Check.isin(ORIGINS, error="none of the three airports")),
        "dest": pa.Column(str, pa.Check.str_matches(r"^[A-Z0-9]{3}$", error="no code of an airport")),
        "scheduled_departure": pa.Column(pd.DatetimeTZDtype("us", "UTC"), coerce=True),
        "event_timestamp": pa.Column(pd.DatetimeTZDtype("us", "UTC"), coerce=True),
    }
    for name, (low, high, missing) in _limits().items():
        checks[name] = pa.Column(
            float,
            [
                pa.Check.in_range(low, high, error=f"outside {low:g} ... {high:g}"),
                *_mean_within(name),
            ],
            nullable=missing > 0,
            coerce=True,
            required=name in ("flight", "scheduled_minutes", "distance", "label"),
        )
    return pa.DataFrameSchema(checks, unique=KEYS, report_duplicates="exclude_first")


def _mean_within(name: str) -> list[Any]:
    import pandera.pandas as pa

    if name not in _typical():
        return []
    low, high = _typical()[name]
    said = f"mean outside {low:g} ... {high:g}: was a unit changed?"
    return [pa.Check(lambda values: bool(low <= values.mean() <= high) or values.empty, error=said)]


def __getattr__(name: str) -> Any:
    """`CHECKS`, the pandera schema, made when asked for: pandera takes a second to import."""
    if name == "CHECKS":
        return _schema()
    raise AttributeError(name)


def check(snapshot: pd.DataFrame, *, as_of: datetime) -> list[Problem]:
    """Every reason to stop: schema, plausibility, missing share, duplicates, volume, freshness."""
    if snapshot.empty:
        return [Problem("snapshot", "has no rows", "publish flights before training")]
    return [*_broken(snapshot), *_missing(snapshot), *_volume(snapshot), *_freshness(snapshot, as_of)]


def warnings(snapshot: pd.DataFrame, reference: pd.DataFrame | None = None) -> list[Problem]:
    """What is worth a look and never stops a retraining.

    The label's share, its change against `reference`, and features that alone separate too well to be honest.
    """
    found = [
        Problem(name, f"separates the labels alone with an AUC of {value:.2f}: a leak?", "when does it become known?")
        for name, value in find_separating(snapshot).items()
    ]
    share = float(snapshot["label"].mean())
    if not PREVALENCE[0] <= share <= PREVALENCE[1]:
        found.append(Problem("label", f"{share:.1%} late, {PREVALENCE[0]:.0%} ... {PREVALENCE[1]:.0%} is usual"))
    if reference is not None and len(reference):
        before = float(reference["label"].mean())
        if abs(share - before) > 0.1:
            found.append(Problem("label", f"{share:.1%} late, {before:.1%} before"))
    return found


def _broken(snapshot: pd.DataFrame) -> list[Problem]:
    from pandera.errors import SchemaErrors

    try:
        _schema().validate(snapshot, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        found = []
        for (column, rule), part in cases.groupby(["column", "check"], sort=True, dropna=False):
            where = (
                str(column)
                if isinstance(column, str) and column in snapshot.columns
                else str(part["failure_case"].iloc[0])
            )
            found.append(_problem(where, str(rule), part))
        return list(dict.fromkeys(found))
    return []


def _problem(where: str, rule: str, cases: pd.DataFrame) -> Problem:
    if rule == "column_in_dataframe":
        return Problem(where, "is missing from the snapshot")
    if rule in ("multiple_fields_uniqueness", "field_uniqueness"):
        return Problem(
            "snapshot", f"flights given twice: {cases['index'].nunique()}", "look for a file published twice"
        )
    examples = ", ".join(str(case) for case in cases["failure_case"].unique()[:3])
    if rule.startswith("mean outside"):
        return Problem(where, rule)
    return Problem(where, f"{rule}: {len(cases)} rows, such as {examples}", "look at the source, or at a changed unit")


def _missing(snapshot: pd.DataFrame) -> list[Problem]:
    found = []
    for name, (_, _, most) in _limits().items():
        if name in snapshot.columns and 0 < most < 1:
            share = float(snapshot[name].isna().mean())
            if share > most:
                found.append(Problem(name, f"{share:.0%} missing, at most {most:.0%} is allowed", "was it published?"))
    return found


def _volume(snapshot: pd.DataFrame) -> list[Problem]:
    days = snapshot["scheduled_departure"].dt.tz_convert("America/New_York").dt.date
    counts = days.value_counts().sort_index().iloc[1:-1]  # the first and the last day may be cut
    thin = counts[counts < LEAST_ROWS_A_DAY]
    gaps = (counts.index[-1] - counts.index[0]).days + 1 - len(counts) if len(counts) else 0
    found = []
    if len(thin):
        found.append(
            Problem(
                "scheduled_departure", f"{thin.index[0]} has {thin.iloc[0]} flights, {LEAST_ROWS_A_DAY} are expected"
            )
        )
    if gaps:
        found.append(Problem("scheduled_departure", f"{gaps} days without any flight"))
    return found


def _freshness(snapshot: pd.DataFrame, as_of: datetime) -> list[Problem]:
    newest = snapshot["event_timestamp"].max()
    age = pd.Timestamp(as_of) - newest
    if newest > pd.Timestamp(as_of):
        return [Problem("event_timestamp", f"{newest.isoformat()} lies after as_of {as_of.isoformat()}")]
    if age > STALE_AFTER:
        return [
            Problem(
                "event_timestamp", f"the newest row is {age} old, at most {STALE_AFTER} is allowed", "is the feed dead?"
            )
        ]
    return []
