"""The ledger's tables. Changes go through alembic (``migrations/``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("owner", String(255), nullable=False),
    Column("server_name", String(255), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("share", Text, nullable=False),
    Column("time_limit_s", Integer, nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("client_key", String(255)),
    Column("state", String(16), nullable=False),
    Column("reason", String(16)),
    Column("detail", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("enforcement", String(32), nullable=False),
    Column("granted_at", Double),
    Column("starting_at", Double),
    Column("started_at", Double),
    Column("ends_at", Double),
    Column("ending_at", Double),
    Column("ended_at", Double),
    Column("placement", Text, nullable=False),
    UniqueConstraint("owner", "client_key", name="one_request_a_key"),
    Index("by_state", "state"),
    Index("by_owner", "owner", "seq"),
)
"""Every reservation there ever was. ``placement`` keeps what it held after it has ended."""

holdings = Table(
    "holdings",
    metadata,
    Column("reservation_id", String(36), ForeignKey("reservations.id"), nullable=False),
    Column("device_uuid", String(96), nullable=False),
    Column("instance_uuid", String(96), nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("compute", Integer, nullable=False),
    Column("whole", Boolean, nullable=False),
    Index("by_reservation", "reservation_id"),
    UniqueConstraint("reservation_id", "device_uuid", "instance_uuid", name="once_a_reservation"),
)
"""What is held now. The database itself refuses a second holder of a whole device or of a MIG instance."""

exclusive = (holdings.c.whole) | (holdings.c.instance_uuid != "")
Index(
    "one_exclusive_holder",
    holdings.c.device_uuid,
    holdings.c.instance_uuid,
    unique=True,
    sqlite_where=exclusive,
    postgresql_where=exclusive,
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("reservation_id", String(36), ForeignKey("reservations.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("detail", Text, nullable=False),
    Index("events_by_reservation", "reservation_id"),
)
"""What happened to each reservation, in order."""

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""``epoch``: which service process owns the ledger. ``clock``: the steady clock's anchor. ``cordons``: by device."""
