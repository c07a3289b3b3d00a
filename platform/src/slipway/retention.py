"""Deletes the private copies of bundles that the contract no longer wants kept.

Never a bundle that is champion, previous or challenger, and nothing of the ledger or the registry: a copy that was
removed here is fetched and verified again when it is needed. Old days of the inference log are deleted by the
collector, its only writer.
"""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime
from pathlib import Path

from slipway.contract import Contract
from slipway.environment import Environment
from slipway.ledger import Ledger
from slipway.logs import get_logger
from slipway.rollout import wanted_revisions


class Retention:
    """Sweeps each model once for every day of event time."""

    def __init__(self, environment: Environment, ledger: Ledger) -> None:
        self._environment = environment
        self._ledger = ledger
        self._swept: dict[str, date] = {}

    def sweep(self, contract: Contract, as_of: datetime) -> list[Path]:
        """Delete the oldest copies beyond the contract's number; the folders that went.

        Looks once for every day of event time.
        """
        today = as_of.astimezone(UTC).date()
        if self._swept.get(contract.model) == today:
            return []
        gone = self._old_bundles(contract)
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)
        self._swept[contract.model] = today
        if gone:
            get_logger().info("deleted", model=contract.model, folders=[str(folder) for folder in gone])
        return gone

    def _old_bundles(self, contract: Contract) -> list[Path]:
        folder = self._environment.state.bundles / contract.model
        if not folder.is_dir():
            return []
        kept = sorted((entry for entry in folder.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
        with self._ledger.read() as session:
            wanted = {str(version) for version in wanted_revisions(session, contract.model)}
        return [entry for entry in kept[: -contract.retention.bundles] if entry.name not in wanted]
