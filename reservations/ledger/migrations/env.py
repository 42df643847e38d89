"""Alembic's entry: runs the migrations on the connection that the ledger hands over."""

from __future__ import annotations

from alembic import context

from timeshare.reservations.ledger.tables import metadata

connection = context.config.attributes["connection"]
# Both databases take back a change of tables with its transaction; of SQLite, alembic does not assume it.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
