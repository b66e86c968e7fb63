"""Alembic's environment for the catalog."""
