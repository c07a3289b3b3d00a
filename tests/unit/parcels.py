"""A small contract for tests that need one: will this parcel be late?"""

from __future__ import annotations

from typing import Any

from slipway.contract import Contract


def contract_of(**gate: Any) -> Contract:
    """The contract, with other values in its gate."""
    return Contract.model_validate(
        {
            "model": "parcels",
            "owner": {"team": "post", "contact": "post@example.com"},
            "task": "binary_classification",
            "description": "Will this parcel be late?",
            "entity": {"keys": ["route"], "event_time": "posted"},
            "request": [{"name": "route", "type": "string"}, {"name": "posted", "type": "timestamp"}],
            "features": {"service": "parcels_v1"},
            "label": {"name": "late", "known_at": "delivery", "longest_delay": "36h"},
            "gate": {"slices": ["route"], "floors": {"auc": 0.6, "calibration_error": 0.1}, **gate},
        }
    )
