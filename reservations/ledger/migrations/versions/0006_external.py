"""Engines that place work themselves: what is known of a reservation's job there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("reservations", sa.Column("external", sa.Text))


def downgrade() -> None:
    op.drop_column("reservations", "external")
