"""Run by Alembic: migrates on the connection, and in the transaction, that `backupiq.catalog.schema` gives it."""

from __future__ import annotations

from alembic import context

from backupiq.catalog.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
