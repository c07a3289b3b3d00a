"""The flights' transforms: from a request and what was known at its moment to the numbers a model sees.

Rates are shrunk towards a typical value by a fixed number of pseudo-observations, so that an hour without flights is a
typical hour and two flights are not a trend.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from feature_repo.flights.services import SERVICES
from feature_repo.transforms import Columns, FieldKind, Transform, Transforms

LOCAL = "America/New_York"
"""The clock of all three origins."""
CARRIERS = ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"]
ORIGINS = ["EWR", "JFK", "LGA"]
_DESTS = """
ABQ ACK ALB ANC ATL AUS AVL BDL BGR BHM BNA BOS BQN BTV BUF BUR BWI BZN CAE CAK CHO CHS CLE CLT CMH CRW CVG DAY DCA
DEN DFW DSM DTW EGE EYW FLL GRR GSO GSP HDN HNL HOU IAD IAH ILM IND JAC JAX LAS LAX LEX LGA LGB MCI MCO MDW MEM MHT
MIA MKE MSN MSP MSY MTJ MVY MYR OAK OKC OMA ORD ORF PBI PDX PHL PHX PIT PSE PSP PVD PWM RDU RIC ROC RSW SAN SAT SAV
SBN SDF SEA SFO SJC SJU SLC SMF SNA SRQ STL STT SYR TPA TUL TVC TYS XNA
"""
DESTS = _DESTS.split()

TYPICAL_DELAY = 12.0
TYPICAL_LATE = 0.2


def _codes(values: np.ndarray, vocabulary: list[str]) -> np.ndarray:
    return pd.Index(vocabulary).get_indexer(pd.Index(values)).astype(np.float64)


def _rate(total: np.ndarray, count: np.ndarray, typical: float, weight: float) -> np.ndarray:
    return np.asarray((total + typical * weight) / (count + weight))


def _schedule(rows: Columns) -> dict[str, np.ndarray]:
    local = pd.DatetimeIndex(rows["scheduled_departure"]).tz_localize("UTC").tz_convert(LOCAL)
    return {
        "carrier": _codes(rows["carrier"], CARRIERS),
        "origin": _codes(rows["origin"], ORIGINS),
        "dest": _codes(rows["dest"], DESTS),
        "hour": (local.hour + local.minute / 60).to_numpy(dtype=np.float64),
        "weekday": local.dayofweek.to_numpy(dtype=np.float64),
        "distance": rows["distance"],
        "scheduled_minutes": rows["scheduled_minutes"],
        "miles_per_minute": rows["distance"] / np.maximum(rows["scheduled_minutes"], 1.0),
    }


def _traffic(rows: Columns, view: str, windows: tuple[int, ...], weight: float) -> dict[str, np.ndarray]:
    made = {}
    for hours in windows:
        count = rows[f"{view}__departures_{hours}h"]
        made[f"{view}_departures_{hours}h"] = count
        made[f"{view}_delay_{hours}h"] = _rate(rows[f"{view}__delay_{hours}h"], count, TYPICAL_DELAY, weight)
        made[f"{view}_late_{hours}h"] = _rate(rows[f"{view}__late_{hours}h"], count, TYPICAL_LATE, weight)
    arrived = rows[f"{view}__arrivals_3h"]
    made[f"{view}_arrival_delay_3h"] = _rate(rows[f"{view}__arrival_delay_3h"], arrived, TYPICAL_DELAY, weight)
    made[f"{view}_overdue"] = rows[f"{view}__overdue"]
    made[f"{view}_overdue_minutes"] = rows[f"{view}__overdue_minutes"]
    return made


def _weather(rows: Columns) -> dict[str, np.ndarray]:
    names = [name for name in rows if name.startswith("weather__")]
    return {name.replace("__", "_"): rows[name] for name in names}


def flight_delay_v1(rows: Columns) -> dict[str, np.ndarray]:
    """What is known one hour before scheduled departure."""
    return {
        **_schedule(rows),
        **_traffic(rows, "origin_traffic", (1, 3, 12), weight=2.0),
        "origin_traffic_scheduled_1h": rows["origin_traffic__scheduled_1h"],
        "origin_traffic_scheduled_2h": rows["origin_traffic__scheduled_2h"],
        **_traffic(rows, "carrier_traffic", (3, 12), weight=2.0),
        **_traffic(rows, "dest_traffic", (3, 12), weight=2.0),
        "route_late_28d": _rate(
            rows["route_history__late_28d"], rows["route_history__flights_28d"], TYPICAL_LATE, 20.0
        ),
        **_weather(rows),
    }


def flight_delay_early(rows: Columns) -> dict[str, np.ndarray]:
    """For the demonstration only: the same and a value that is not known in time."""
    return {**flight_delay_v1(rows), "departure_delay": rows["flight_status__departure_delay"]}


def _transforms(service: str, function: Transform) -> Transforms:
    views = SERVICES[service]
    empty = {name: np.empty(0) for view in views for name in view.qualified.values()}
    empty |= {name: np.array([], dtype=_DTYPES[kind]) for name, kind in REQUEST.items()}
    return Transforms(
        service,
        members=views,
        request=REQUEST,
        categorical=("carrier", "origin", "dest"),
        columns=tuple(function(empty)),
        function=function,
        modules=(sys.modules[__name__],),
    )


REQUEST: dict[str, FieldKind] = {
    "carrier": "string",
    "origin": "string",
    "dest": "string",
    "scheduled_departure": "timestamp",
    "scheduled_minutes": "number",
    "distance": "number",
}
_DTYPES: dict[FieldKind, str] = {"string": "object", "number": "float64", "timestamp": "datetime64[us]"}

TRANSFORMS = {
    function.__name__: _transforms(function.__name__, function) for function in (flight_delay_v1, flight_delay_early)
}
