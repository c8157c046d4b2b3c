"""The log of rounds, and the state of the round being trained."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "round_state",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_round_state")),
    )
    op.create_table(
        "round_plans",
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("round", name=op.f("pk_round_plans")),
    )
    op.create_table(
        "round_records",
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("round", name=op.f("pk_round_records")),
    )


def downgrade() -> None:
    op.drop_table("round_records")
    op.drop_table("round_plans")
    op.drop_table("round_state")
