"""The tables, without what searching in text needs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TABLES = (
    "repositories",
    "destinations",
    "lineages",
    "runs",
    "projects",
    "provider_health",
    "snapshots",
    "file_versions",
    "snapshot_places",
    "findings",
)
"""In the order in which they are made: each after those it refers to."""


def upgrade() -> None:
    """Make the tables and their indexes."""
    op.create_table(
        "repositories",
        sa.Column("id", ID, nullable=False),
        sa.Column("repository_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_repositories"),
        sa.UniqueConstraint("repository_id", name="uq_repositories_repository_id"),
    )
    op.create_table(
        "destinations",
        sa.Column("id", ID, nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("first_seen_ns", sa.BigInteger(), nullable=False),
        sa.Column("last_success_ns", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("given_up", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_destinations_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_destinations"),
    )
    op.create_index("uq_destinations_repository_name", "destinations", ["repository_id", "name"], unique=True)
    op.create_table(
        "lineages",
        sa.Column("id", ID, nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("paths", sa.Text(), nullable=False),
        sa.Column("checkpoint", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_lineages_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_lineages"),
    )
    op.create_index("uq_lineages_repository_key", "lineages", ["repository_id", "key"], unique=True)
    op.create_table(
        "runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("flow_run_id", sa.Text(), nullable=False),
        sa.Column("repository_id", ID, nullable=True),
        sa.Column("began_ns", sa.BigInteger(), nullable=False),
        sa.Column("ended_ns", sa.BigInteger(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_runs_repository_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("flow_run_id", name="uq_runs_flow_run_id"),
    )
    op.create_index("ix_runs_began", "runs", ["began_ns"])
    op.create_table(
        "projects",
        sa.Column("id", ID, nullable=False),
        sa.Column("lineage_id", ID, nullable=False),
        sa.Column("root", SORTED, nullable=False),
        sa.Column("raw_root", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("manifests", sa.Text(), nullable=False),
        sa.Column("frameworks", sa.Text(), nullable=False),
        sa.Column("first_position", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["lineage_id"], ["lineages.id"], name="fk_projects_lineage_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
    )
    op.create_index("ix_projects_lineage_name", "projects", ["lineage_id", "name"])
    op.create_table(
        "provider_health",
        sa.Column("id", ID, nullable=False),
        sa.Column("destination_id", ID, nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("latency_ms", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["destination_id"], ["destinations.id"], name="fk_provider_health_destination_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_provider_health"),
    )
    op.create_index("ix_provider_health_destination_at", "provider_health", ["destination_id", "at_ns"])
    op.create_table(
        "snapshots",
        sa.Column("id", ID, nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("lineage_id", ID, nullable=False),
        sa.Column("hex_id", SORTED, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("paths", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("tree", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("checkpoint", sa.Boolean(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("bytes_added", sa.BigInteger(), nullable=False),
        sa.Column("bytes_stored", sa.BigInteger(), nullable=False),
        sa.Column("unreadable", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["lineage_id"], ["lineages.id"], name="fk_snapshots_lineage_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_snapshots_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_snapshots"),
    )
    op.create_index("ix_snapshots_time", "snapshots", ["time_ns"])
    op.create_index("uq_snapshots_lineage_position", "snapshots", ["lineage_id", "position"], unique=True)
    op.create_index("uq_snapshots_repository_hex_id", "snapshots", ["repository_id", "hex_id"], unique=True)
    op.create_table(
        "file_versions",
        sa.Column("id", ID, nullable=False),
        sa.Column("lineage_id", ID, nullable=False),
        sa.Column("path", SORTED, nullable=False),
        sa.Column("raw_path", sa.LargeBinary(), nullable=True),
        sa.Column("name", SORTED, nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("first_position", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=True),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("mime", sa.Text(), nullable=False),
        sa.Column("detected_by", sa.Text(), nullable=False),
        sa.Column("confidence", sa.SmallInteger(), nullable=False),
        sa.Column("conflict", sa.Boolean(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("importance", sa.SmallInteger(), nullable=False),
        sa.Column("git", sa.Text(), nullable=False),
        sa.Column("regenerable", sa.Boolean(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("project_id", ID, nullable=True),
        sa.ForeignKeyConstraint(
            ["lineage_id"], ["lineages.id"], name="fk_file_versions_lineage_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_file_versions_project_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_file_versions"),
    )
    op.create_index("ix_file_versions_importance", "file_versions", ["importance", "mtime_ns"])
    op.create_index("ix_file_versions_language", "file_versions", ["language"])
    op.create_index("ix_file_versions_mtime", "file_versions", ["mtime_ns"])
    op.create_index("ix_file_versions_project", "file_versions", ["project_id"])
    op.create_index("ix_file_versions_size", "file_versions", ["size"])
    op.create_table(
        "snapshot_places",
        sa.Column("snapshot_id", ID, nullable=False),
        sa.Column("destination_id", ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["destination_id"], ["destinations.id"], name="fk_snapshot_places_destination_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name="fk_snapshot_places_snapshot_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "destination_id", name="pk_snapshot_places"),
    )
    op.create_index("ix_snapshot_places_destination", "snapshot_places", ["destination_id"])
    op.create_table(
        "findings",
        sa.Column("version_id", ID, nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["file_versions.id"], name="fk_findings_version_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "number", name="pk_findings"),
    )
    op.create_index("ix_findings_hash", "findings", ["hash"])
    op.create_index("ix_findings_rule", "findings", ["rule"])
    op.create_index(
        "ix_file_versions_ended",
        "file_versions",
        ["lineage_id", "last_position"],
        **_where("last_position IS NOT NULL"),
    )
    op.create_index("ix_file_versions_conflict", "file_versions", ["conflict"], **_where("conflict", "conflict = 1"))
    op.create_index(
        "ix_file_versions_git", "file_versions", ["git"], **_where("git NOT IN ('none', 'pushed', 'internal')")
    )
    path = "path" if op.get_bind().dialect.name == "sqlite" else sa.text("left(path, 512)")
    op.create_index("ix_file_versions_lineage_path", "file_versions", ["lineage_id", path])


def _where(condition: str, sqlite: str = "") -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(sqlite or condition)}


def downgrade() -> None:
    """Remove them with all they hold."""
    for table in reversed(TABLES):
        op.drop_table(table)
