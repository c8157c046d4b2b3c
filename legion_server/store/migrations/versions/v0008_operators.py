"""Sessions of browsers, the log of what admins did, and more about invites."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("who", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_who"), "sessions", ["who"])
    op.create_table(
        "audit_log",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("who", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_log")),
    )
    for column in (
        sa.Column("made_at", sa.Double()),
        sa.Column("uses", sa.Integer()),
        sa.Column("purpose", sa.String(length=8)),
        sa.Column("note", sa.String(length=80)),
        sa.Column("public_token", sa.String(length=64)),
    ):
        op.add_column("invites", column)


def downgrade() -> None:
    with op.batch_alter_table("invites") as invites:
        for name in ("made_at", "uses", "purpose", "note", "public_token"):
            invites.drop_column(name)
    op.drop_table("audit_log")
    op.drop_index(op.f("ix_sessions_who"), "sessions")
    op.drop_table("sessions")
