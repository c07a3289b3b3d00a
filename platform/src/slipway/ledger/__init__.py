"""The release ledger: one SQL database that says what is released, and why.

The parts of the platform meet here and nowhere else: each writes its own facts in one transaction and acts on what it
reads. MLflow says which versions exist; the ledger says which one answers.
"""

from slipway.ledger.database import Ledger
from slipway.ledger.migration import open_ledger

__all__ = ["Ledger", "open_ledger"]
