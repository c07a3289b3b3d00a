"""Runs the migrations in the transaction that the ledger has opened; there is no offline mode."""

from alembic import context

from slipway.ledger.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
)
context.run_migrations()
