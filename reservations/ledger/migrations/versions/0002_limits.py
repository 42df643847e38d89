"""Limits: what each grant counts and is charged, exceptions, what was changed by whom, and who is in which group."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
ADDED: dict[str, tuple[Any, str]] = {
    "account": (sa.String(255), ""),
    "terms": (sa.Text, "{}"),
    "extensions": (sa.Integer, "0"),
    "requeues": (sa.Integer, "0"),
}


def upgrade() -> None:
    for name, (kind, default) in ADDED.items():
        op.add_column("reservations", sa.Column(name, kind, nullable=False, server_default=default))
    op.create_table(
        "charges",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("reservation_id", sa.String(36), sa.ForeignKey("reservations.id"), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("account", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("gpus", sa.Double, nullable=False),
        sa.Column("rate", sa.Double, nullable=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("ended", sa.Double, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
    )
    op.create_index("charges_by_end", "charges", ["ended"])
    op.create_table(
        "limits_versions",
        sa.Column("version", sa.String(12), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
    )
    op.create_table(
        "overrides",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("limits", sa.Text, nullable=False),
        sa.Column("extra_gpu_hours", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("made_by", sa.String(255), nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
    )
    op.create_table(
        "audit",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("what", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "people",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("groups", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    for table in ("people", "audit", "overrides", "limits_versions", "charges"):
        op.drop_table(table)
    for name in ADDED:
        op.drop_column("reservations", name)
