"""Prefect blocks: destinations and the repository key."""
