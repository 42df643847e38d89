"""The first ledger: reservations, what they hold, what happened, and the owner's epoch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("server_name", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("share", sa.Text, nullable=False),
        sa.Column("time_limit_s", sa.Integer, nullable=False),
        sa.Column("submitted_at", sa.Double, nullable=False),
        sa.Column("client_key", sa.String(255)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(16)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("enforcement", sa.String(32), nullable=False),
        *[
            sa.Column(name, sa.Double)
            for name in ("granted_at", "starting_at", "started_at", "ends_at", "ending_at", "ended_at")
        ],
        sa.Column("placement", sa.Text, nullable=False),
        sa.UniqueConstraint("owner", "client_key", name="one_request_a_key"),
    )
    op.create_index("by_state", "reservations", ["state"])
    op.create_index("by_owner", "reservations", ["owner", "seq"])
    op.create_table(
        "holdings",
        sa.Column("reservation_id", sa.String(36), sa.ForeignKey("reservations.id"), nullable=False),
        sa.Column("device_uuid", sa.String(96), nullable=False),
        sa.Column("instance_uuid", sa.String(96), nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("compute", sa.Integer, nullable=False),
        sa.Column("whole", sa.Boolean, nullable=False),
        sa.UniqueConstraint("reservation_id", "device_uuid", "instance_uuid", name="once_a_reservation"),
    )
    op.create_index("by_reservation", "holdings", ["reservation_id"])
    exclusive = sa.text("whole OR instance_uuid != ''")
    op.create_index(
        "one_exclusive_holder",
        "holdings",
        ["device_uuid", "instance_uuid"],
        unique=True,
        sqlite_where=exclusive,
        postgresql_where=exclusive,
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("reservation_id", sa.String(36), sa.ForeignKey("reservations.id"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("events_by_reservation", "events", ["reservation_id"])
    op.create_table(
        "meta", sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )


def downgrade() -> None:
    for table in ("meta", "events", "holdings", "reservations"):
        op.drop_table(table)
