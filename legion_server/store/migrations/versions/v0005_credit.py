"""The ledger of credit, and its sums."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "credit_lines",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "round", "worker_id", name=op.f("pk_credit_lines")),
    )
    op.create_table(
        "credit_sums",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "worker_id", name=op.f("pk_credit_sums")),
    )


def downgrade() -> None:
    op.drop_table("credit_sums")
    op.drop_table("credit_lines")
