"""Jobs: what a batch reservation runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("reservations", sa.Column("job", sa.Text))


def downgrade() -> None:
    op.drop_column("reservations", "job")
