"""Searching in paths: an FTS5 table on SQLite, a column of words with a GIN index on PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

from backupiq.catalog.text import search_text

revision = "0002"
down_revision = "0001"

BATCH = 5_000


def upgrade() -> None:
    """Make it and fill it from the file versions that are there."""
    words = sa.Text().with_variant(TSVECTOR(), "postgresql")
    op.add_column("file_versions", sa.Column("search_words", words, nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE file_search USING fts5("
            "path, content='file_versions', content_rowid='id', tokenize='unicode61 remove_diacritics 2')"
        )
        op.execute("INSERT INTO file_search(file_search) VALUES ('rebuild')")
    else:
        _fill_words()
        op.create_index("ix_file_versions_search_words", "file_versions", ["search_words"], postgresql_using="gin")


def _fill_words() -> None:
    connection = op.get_bind()
    select = sa.text("SELECT id, path FROM file_versions WHERE id > :after ORDER BY id LIMIT :batch")
    update = sa.text("UPDATE file_versions SET search_words = to_tsvector('simple', :words) WHERE id = :id")
    after = -1
    while rows := connection.execute(select, {"after": after, "batch": BATCH}).all():
        connection.execute(update, [{"id": row.id, "words": search_text(row.path)} for row in rows])
        after = rows[-1].id


def downgrade() -> None:
    """Remove it; it can be made again from the rest."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE file_search")
    else:
        op.drop_index("ix_file_versions_search_words", "file_versions")
    op.drop_column("file_versions", "search_words")
