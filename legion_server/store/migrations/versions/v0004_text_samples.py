"""What the model wrote at its evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "text_samples",
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("step", "worker_id", name=op.f("pk_text_samples")),
    )


def downgrade() -> None:
    op.drop_table("text_samples")
