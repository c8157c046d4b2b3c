"""Which of several servers over one database decides."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    leadership = op.create_table(
        "leadership",
        sa.Column("term", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("server", sa.String(length=32), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("renewed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("term", name=op.f("pk_leadership")),
    )
    op.bulk_insert(leadership, [{"term": 0, "server": "", "host": "", "port": 0, "renewed_at": 0.0}])


def downgrade() -> None:
    op.drop_table("leadership")
