"""Activity: what sessions do, what was decided about them, and GPUs that were given back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("reservations", sa.Column("handling", sa.String(16), nullable=False, server_default=""))
    op.add_column("reservations", sa.Column("asked_again_at", sa.Double))
    op.create_table(
        "activity",
        sa.Column("reservation_id", sa.String(36), sa.ForeignKey("reservations.id"), primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("reservation_id", sa.String(36), sa.ForeignKey("reservations.id"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("signals", sa.Text, nullable=False),
    )
    op.create_index("decisions_by_reservation", "decisions", ["reservation_id"])


def downgrade() -> None:
    op.drop_table("decisions")
    op.drop_table("activity")
    op.drop_column("reservations", "asked_again_at")
    op.drop_column("reservations", "handling")
