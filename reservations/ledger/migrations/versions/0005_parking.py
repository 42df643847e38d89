"""Parking: GPU state of sessions that is kept in the node's memory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("reservations", sa.Column("kept_mib", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("reservations", "kept_mib")
