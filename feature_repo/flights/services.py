"""Feature services of the flights domain: which views a version reads. A service never changes; a new one is added."""

from __future__ import annotations

from feature_repo.flights.views import (
    CARRIER_TRAFFIC,
    DEST_TRAFFIC,
    FLIGHT_STATUS,
    ORIGIN_TRAFFIC,
    ROUTE_HISTORY,
    WEATHER,
)
from feature_repo.view import View

FLIGHT_DELAY_V1 = (ORIGIN_TRAFFIC, CARRIER_TRAFFIC, DEST_TRAFFIC, ROUTE_HISTORY, WEATHER)

SERVICES: dict[str, tuple[View, ...]] = {
    "flight_delay_v1": FLIGHT_DELAY_V1,
    # For the demonstration only: FLIGHT_STATUS claims to know a value before it is known.
    "flight_delay_early": (*FLIGHT_DELAY_V1, FLIGHT_STATUS),
}
