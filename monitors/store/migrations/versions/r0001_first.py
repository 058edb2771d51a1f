"""The first schema: runs, what probes remember, references and their history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.String(512)
_TIME = sa.DateTime(timezone=True)


def _version(*, primary_key: bool = False) -> list[sa.Column[str]]:
    return [
        sa.Column(name, _NAME, primary_key=primary_key, nullable=False)
        for name in ("index_name", "version", "incarnation")
    ]


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "runs",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        *_version(),
        sa.Column("probe", _NAME, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("outcome", _NAME, nullable=False),
        sa.Column("failure", _NAME),
        sa.Column("message", sa.Text),
        sa.Column("level", _NAME),
        sa.Column("reason", _NAME),
        sa.Column("words", sa.Text),
        sa.Column("evidence", sa.JSON),
        sa.Column("figures", sa.JSON),
        sa.Column("details", sa.JSON),
    )
    op.create_index(
        "runs_of_probe", "runs", ["index_name", "version", "incarnation", "probe", "id"]
    )
    op.create_index("runs_by_time", "runs", ["started_at"])
    op.create_table(
        "states",
        *_version(primary_key=True),
        sa.Column("probe", _NAME, primary_key=True),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("state", sa.JSON),
        sa.Column("last_run_id", _ID),
        sa.Column("completed_run_id", _ID),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    op.create_table(
        "baselines",
        *_version(primary_key=True),
        sa.Column("probe", _NAME, primary_key=True),
        sa.Column("baseline", sa.JSON, nullable=False),
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("set_at", _TIME, nullable=False),
    )
    _references()
    op.create_table(
        "run_counts",
        *(
            sa.Column(name, _NAME, primary_key=True)
            for name in ("index_name", "probe", "outcome", "failure")
        ),
        sa.Column("runs", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "live_versions",
        sa.Column("index_name", _NAME, primary_key=True),
        sa.Column("version", _NAME, nullable=False),
        sa.Column("incarnation", _NAME, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("since", _TIME, nullable=False),
    )


def _references() -> None:
    op.create_table(
        "vector_references",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        *_version(),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("vectors", sa.LargeBinary, nullable=False),
        sa.Column("document_ids", sa.JSON, nullable=False),
        sa.Column("digest", _NAME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", _NAME, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index(
        "reference_by_name",
        "vector_references",
        ["index_name", "version", "incarnation", "kind", "name"],
        unique=True,
    )
    op.create_table(
        "references_in_force",
        *_version(primary_key=True),
        sa.Column("kind", _NAME, primary_key=True),
        sa.Column("reference_id", _ID, sa.ForeignKey("vector_references.id"), nullable=False),
        sa.Column("since", _TIME, nullable=False),
    )
    op.create_table(
        "reference_events",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        *_version(),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("action", _NAME, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("by", _NAME, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("digest", _NAME, nullable=False),
    )
    op.create_index("events_of_index", "reference_events", ["index_name", "id"])
