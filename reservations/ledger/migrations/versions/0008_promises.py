"""What was promised to those who wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "promises",
        sa.Column("reservation_id", sa.String(36), sa.ForeignKey("reservations.id"), primary_key=True),
        sa.Column("start", sa.Double, nullable=False),
        sa.Column("holdings", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("promises")
