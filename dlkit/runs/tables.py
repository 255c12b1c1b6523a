"""The tables of the store. A change here needs a migration beside it: a test compares the two."""

import sqlalchemy as sa

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("needs", sa.String(16), nullable=False),
    sa.Column("slot", sa.String(16)),
    sa.Column("sequence", sa.Integer, nullable=False, unique=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("wish", sa.String(16)),
    sa.Column("pid", sa.Integer),
    sa.Column("process", sa.String(80)),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("started_at", sa.String(40)),
    sa.Column("finished_at", sa.String(40)),
    sa.Column("beat_at", sa.String(40)),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("summary", sa.JSON, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("place", sa.Integer, nullable=False, server_default="0"),
    sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    sa.Column("step", sa.Integer, nullable=False, server_default="0"),
    sa.Column("mark", sa.Integer, nullable=False, server_default="0"),
    sa.Column("fruitless", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worked", sa.Float),
    sa.Column("failure_kind", sa.String(32)),
    sa.Column("awaits_bytes", sa.BigInteger),
    sa.Column("token", sa.String(64)),
    sa.Index("ix_runs_token", "token", unique=True),
)

points = sa.Table(
    "points",
    metadata,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Float, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
)

happenings = sa.Table(
    "happenings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String(32), nullable=False, index=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("actor", sa.String(80), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("what", sa.String(32), nullable=False),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("step", sa.Integer),
    sa.Column("actor", sa.String(80), nullable=False),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("file", sa.String(80), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)
