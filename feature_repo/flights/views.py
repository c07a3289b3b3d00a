"""The flights' feature views: what was known about airports, carriers, routes and weather at each publication tick.

Counts and sums are whole numbers, so that one tick computed alone equals the same tick computed in bulk, bit for bit;
the transforms make rates of them. Delays are minutes, clipped to -30 ... 180. A window of `3h` at tick t covers what
became known in (t - 3h, t]. A cancellation counts as a departure 180 minutes late, known two hours after schedule.
"""

from __future__ import annotations

from datetime import timedelta

from feature_repo.view import Feature, View

TICK = timedelta(minutes=30)
"""How often traffic is published; whole multiples of it since midnight UTC."""


def _count(name: str, about: str) -> Feature:
    return Feature(name, "int", 0, about)


def _departures(*hours: int) -> tuple[Feature, ...]:
    features = []
    for window in hours:
        features += [
            _count(f"departures_{window}h", "flights that left (or were cancelled)"),
            _count(f"delay_{window}h", "sum of their departure delays"),
            _count(f"late_{window}h", "how many of them left more than 15 minutes late"),
        ]
    return tuple(features)


def _arrivals(hours: int) -> tuple[Feature, ...]:
    return (
        _count(f"arrivals_{hours}h", "flights that landed"),
        _count(f"arrival_delay_{hours}h", "sum of their arrival delays"),
    )


OVERDUE = (
    _count("overdue", "flights scheduled in the last 4 h that have neither left nor been cancelled"),
    _count("overdue_minutes", "sum of the minutes by which they are overdue"),
)

ORIGIN_TRAFFIC = View(
    "origin_traffic",
    keys=("origin",),
    lifetime=timedelta(hours=6),
    features=(
        *_departures(1, 3, 12),
        *_arrivals(3),
        *OVERDUE,
        _count("scheduled_1h", "flights scheduled to leave in the coming hour"),
        _count("scheduled_2h", "flights scheduled to leave in the hour after it"),
    ),
    about="departures and landings of flights from this airport",
)

CARRIER_TRAFFIC = View(
    "carrier_traffic",
    keys=("carrier", "origin"),
    lifetime=timedelta(hours=6),
    features=(*_departures(3, 12), *_arrivals(3), *OVERDUE),
    about="the same for one carrier at this airport",
)

DEST_TRAFFIC = View(
    "dest_traffic",
    keys=("dest",),
    lifetime=timedelta(hours=6),
    features=(*_departures(3, 12), *_arrivals(3), *OVERDUE),
    about="flights to this destination from all airports of the city",
)

ROUTE_HISTORY = View(
    "route_history",
    keys=("carrier", "origin", "dest"),
    lifetime=timedelta(days=3),
    features=(
        _count("flights_28d", "flights whose outcome became known in the last 28 days"),
        _count("late_28d", "how many of them arrived late or not at all"),
    ),
    about="outcomes of the carrier on this route, published daily",
)

WEATHER = View(
    "weather",
    keys=("origin",),
    lifetime=timedelta(hours=6),
    features=(
        Feature("temp", "float", 56.0, "degrees Fahrenheit"),
        Feature("dewp", "float", 42.0, "dew point, degrees Fahrenheit"),
        Feature("humid", "float", 62.0, "relative humidity, per cent"),
        Feature("wind_dir", "float", 200.0, "degrees"),
        Feature("wind_speed", "float", 10.0, "miles per hour"),
        Feature("precip", "float", 0.0, "inches in the hour"),
        Feature("precip_6h", "float", 0.0, "inches in the last six published hours"),
        Feature("pressure", "float", 1017.0, "millibars at sea level"),
        Feature("pressure_change_3h", "float", 0.0, "millibars since three hours before"),
        Feature("visib", "float", 10.0, "visibility, miles"),
        Feature("visib_min_3h", "float", 10.0, "least visibility of the last three published hours"),
    ),
    about="the last published hour at this airport; an hour is published when it is over",
)

FLIGHT_STATUS = View(
    "flight_status",
    keys=("carrier", "flight", "origin", "dest"),
    lifetime=timedelta(hours=6),
    features=(Feature("departure_delay", "float", 0.0, "minutes"),),
    about="for the demonstration only: claims to know a flight's departure delay two hours before its schedule",
)

VIEWS = (ORIGIN_TRAFFIC, CARRIER_TRAFFIC, DEST_TRAFFIC, ROUTE_HISTORY, WEATHER, FLIGHT_STATUS)
