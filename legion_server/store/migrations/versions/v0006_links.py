"""What workers have measured of their links."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "links",
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("peer", sa.String(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", "peer", name=op.f("pk_links")),
    )


def downgrade() -> None:
    op.drop_table("links")
