"""What every part of a pass is given: the environment, the ledger, the target, and the moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from slipway.contract import Contract
from slipway.controller.background import Background
from slipway.controller.revisions import Revisions
from slipway.environment import Environment
from slipway.ledger import Ledger
from slipway.targets import Target


@dataclass(frozen=True)
class World:
    """One pass over one model."""

    environment: Environment
    ledger: Ledger
    target: Target
    revisions: Revisions
    background: Background
    load_contract: Callable[[str], Contract]
    model: str
    as_of: datetime
    """Event time of this pass."""
    settled: datetime
    """Event time up to which the inference log is complete: never later than `as_of`."""

    @cached_property
    def contract(self) -> Contract:
        """Read when it is needed: traffic follows the ledger even while somebody breaks a contract."""
        return self.load_contract(self.model)
