"""The ledger's tables. Changes go through alembic (``migrations/``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

metadata = MetaData()
ENDED: ColumnElement[str] = literal_column("'ended'", String)
"""Written out, not a parameter: an index of a part of a table serves only queries that name the part itself."""
SERIAL = BigInteger().with_variant(Integer, "sqlite")

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
    Column("account", String(255), nullable=False),
    Column("terms", Text, nullable=False),
    Column("extensions", Integer, nullable=False),
    Column("requeues", Integer, nullable=False),
    Column("job", Text),
    Column("handling", String(16), nullable=False, server_default=""),
    Column("asked_again_at", Double),
    Column("kept_mib", Integer, nullable=False, server_default="0"),
    Column("external", Text),
    UniqueConstraint("owner", "client_key", name="one_request_a_key"),
    Index("by_owner", "owner", "seq"),
    Index("by_owner_and_kind", "owner", "kind", "seq"),
    Index("by_kind", "kind", "seq"),
)
"""Every reservation, those that have ended for as long as the limits say. ``placement`` keeps what it held after it has
ended."""

live = reservations.c.state != ENDED
past = reservations.c.state == ENDED
Index("live", reservations.c.seq, sqlite_where=live, postgresql_where=live)
Index("past", reservations.c.ended_at, sqlite_where=past, postgresql_where=past)

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

promises = Table(
    "promises",
    metadata,
    Column("reservation_id", String(36), ForeignKey("reservations.id"), primary_key=True),
    Column("start", Double, nullable=False),
    Column("holdings", Text, nullable=False),
)
"""The latest start that each waiting request was promised, and what is kept for it from then on."""

events = Table(
    "events",
    metadata,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
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
"""``epoch``: which service process owns the ledger. ``clock``: the steady clock's anchor. ``cordons``: by device.
``books``: sums of the charges (see ``balances``). ``swept``: what was removed (see ``sweep``)."""

charges = Table(
    "charges",
    metadata,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("reservation_id", String(36), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("account", String(255), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("model", String(64), nullable=False),
    Column("gpus", Double, nullable=False),
    Column("rate", Double, nullable=False),
    Column("began", Double, nullable=False),
    Column("ended", Double, nullable=False),
    Column("reason", String(16), nullable=False),
    Index("charges_by_end", "ended"),
    Index("charges_by_owner", "owner", "ended"),
)
"""Each interval in which devices were held, written with its end: what was charged, exactly once. It outlives its
reservation: accounts are kept for longer."""

limits_versions = Table(
    "limits_versions",
    metadata,
    Column("version", String(12), primary_key=True),
    Column("text", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
)
"""Every limits file that was in force."""

overrides = Table(
    "overrides",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("scope", String(8), nullable=False),
    Column("name", String(255), nullable=False),
    Column("limits", Text, nullable=False),
    Column("extra_gpu_hours", Double, nullable=False),
    Column("until", Double, nullable=False),
    Column("why", Text, nullable=False),
    Column("made_by", String(255), nullable=False),
    Column("made_at", Double, nullable=False),
    Column("revoked_at", Double),
)
"""Exceptions, those that are over too."""

audit = Table(
    "audit",
    metadata,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("who", String(255), nullable=False),
    Column("what", String(64), nullable=False),
    Column("detail", Text, nullable=False),
)
"""What administrators changed."""

people = Table(
    "people",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("groups", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
)
"""The groups of each person as JupyterHub told them last: needed when it does not answer."""

activity = Table(
    "activity",
    metadata,
    Column("reservation_id", String(36), ForeignKey("reservations.id"), primary_key=True),
    Column("state", Text, nullable=False),
)
"""What is known of what each live session does: see ``timeshare.reservations.monitor``."""

decisions = Table(
    "decisions",
    metadata,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("reservation_id", String(36), ForeignKey("reservations.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("what", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("signals", Text, nullable=False),
    Index("decisions_by_reservation", "reservation_id"),
    Index("decisions_by_time", "at"),
)
"""What was decided about idle sessions, with the signals that decided it."""
