"""The first form: runs, their curves and their history."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "runs",
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
    )
    op.create_table(
        "points",
        sa.Column("run_id", sa.String(32), primary_key=True),
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("epoch", sa.Float, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
    )
    op.create_table(
        "happenings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.String(32), nullable=False, index=True),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
