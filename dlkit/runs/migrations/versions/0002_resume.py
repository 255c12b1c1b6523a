"""What pausing, resuming and changing a run needs: its queue, its checkpoints, its changes, its failures by name."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns and the two tables; a run that waits keeps its place."""
    for name in ("priority", "place", "version", "step", "mark", "fruitless"):
        op.add_column("runs", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("worked", sa.Float))
    op.add_column("runs", sa.Column("failure_kind", sa.String(32)))
    op.add_column("runs", sa.Column("awaits_bytes", sa.BigInteger))
    op.add_column("runs", sa.Column("token", sa.String(64)))
    op.create_index("ix_runs_token", "runs", ["token"], unique=True)
    op.execute(sa.text("update runs set place = sequence"))
    op.create_table(
        "changes",
        sa.Column("run_id", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("actor", sa.String(80), nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("run_id", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("file", sa.String(80), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
    )
