"""What people have taken back of the probes' memory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.String(512)


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "probe_resets",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        *(
            sa.Column(name, _NAME, nullable=False)
            for name in ("index_name", "version", "incarnation", "probe")
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", _NAME, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("level", _NAME),
        sa.Column("words", sa.Text),
        sa.Column("run_id", _ID, nullable=False),
    )
    op.create_index("resets_of_index", "probe_resets", ["index_name", "id"])
