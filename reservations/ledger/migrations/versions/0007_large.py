"""A large past: indexes for every question that is asked often, and charges that may outlive their reservations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

LIVE, PAST = sa.text("state != 'ended'"), sa.text("state = 'ended'")
SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_index("live", "reservations", ["seq"], sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("past", "reservations", ["ended_at"], sqlite_where=PAST, postgresql_where=PAST)
    op.create_index("by_owner_and_kind", "reservations", ["owner", "kind", "seq"])
    op.create_index("by_kind", "reservations", ["kind", "seq"])
    op.drop_index("by_state", "reservations")
    op.create_index("decisions_by_time", "decisions", ["at"])
    _let_charges_outlive()
    op.create_index("charges_by_owner", "charges", ["owner", "ended"])


def downgrade() -> None:
    """But for the tie of charges to reservations, which those that outlived theirs would break."""
    op.drop_index("charges_by_owner", "charges")
    op.drop_index("decisions_by_time", "decisions")
    op.create_index("by_state", "reservations", ["state"])
    for name in ("by_kind", "by_owner_and_kind", "past", "live"):
        op.drop_index(name, "reservations")


def _let_charges_outlive() -> None:
    foreign = sa.inspect(op.get_bind()).get_foreign_keys("charges")
    if not foreign:
        return
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(foreign[0]["name"] or "charges_reservation_id_fkey", "charges")
        return
    # SQLite changes no table in place: https://sqlite.org/lang_altertable.html, section 7.
    with op.batch_alter_table("charges", recreate="always", copy_from=_charges()):
        pass


def _charges() -> sa.Table:
    return sa.Table(
        "charges",
        sa.MetaData(),
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        *(sa.Column(name, sa.String(size), nullable=False) for name, size in _TEXTS.items()),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("gpus", "rate", "began", "ended")),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Index("charges_by_end", "ended"),
    )


_TEXTS = {"reservation_id": 36, "owner": 255, "account": 255, "kind": 16, "model": 64}
