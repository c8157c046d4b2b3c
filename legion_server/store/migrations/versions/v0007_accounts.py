"""Accounts of people, teams, and credit in operations instead of tokens alone."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

FLOP_PER_TOKEN = 6
SHAPE = "shape_of_clusters"


def upgrade() -> None:
    _accounts()
    _teams()
    _sums()
    with op.batch_alter_table("credit_lines") as lines:
        lines.add_column(sa.Column("mflop", sa.BigInteger(), nullable=False, server_default="0"))
        lines.add_column(sa.Column("at", sa.Double(), nullable=False, server_default="0"))
        lines.add_column(sa.Column("moment", sa.BigInteger(), nullable=False, server_default="0"))
    _weigh()
    with op.batch_alter_table("credit_lines") as lines:
        lines.alter_column("mflop", server_default=None)
        lines.alter_column("at", server_default=None)
        lines.alter_column("moment", server_default=None)
    op.create_index("ix_credit_lines_worker_id", "credit_lines", ["worker_id", "moment"])
    op.drop_table("credit_sums")


def _accounts() -> None:
    op.create_table(
        "volunteers",
        sa.Column("volunteer_id", sa.String(length=32), nullable=False),
        sa.Column("nickname", sa.String(length=24)),
        sa.Column("nickname_key", sa.String(length=64)),
        sa.Column("recovery_sha256", sa.String(length=64)),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("exported", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("volunteer_id", name=op.f("pk_volunteers")),
        sa.UniqueConstraint("nickname_key", name=op.f("uq_volunteers_nickname_key")),
        sa.UniqueConstraint("recovery_sha256", name=op.f("uq_volunteers_recovery_sha256")),
    )
    op.create_table(
        "devices",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_devices")),
        sa.UniqueConstraint("worker_id", name=op.f("uq_devices_worker_id")),
    )
    op.create_table(
        "device_links",
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("since", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("until", sa.BigInteger()),
        sa.Column("volunteer_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", "since", name=op.f("pk_device_links")),
    )
    op.create_index(op.f("ix_device_links_volunteer_id"), "device_links", ["volunteer_id"])
    op.create_table(
        "passes",
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("volunteer_id", sa.String(length=32), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_passes")),
    )
    op.create_index(op.f("ix_passes_volunteer_id"), "passes", ["volunteer_id"])


def _teams() -> None:
    op.create_table(
        "teams",
        sa.Column("team_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("name_key", sa.String(length=64), nullable=False),
        sa.Column("about", sa.String(length=400), nullable=False),
        sa.Column("founder", sa.String(length=32)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("team_id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name_key", name=op.f("uq_teams_name_key")),
    )
    op.create_table(
        "team_members",
        sa.Column("volunteer_id", sa.String(length=32), nullable=False),
        sa.Column("since", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("until", sa.BigInteger()),
        sa.Column("team_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("volunteer_id", "since", name=op.f("pk_team_members")),
    )
    op.create_index(op.f("ix_team_members_team_id"), "team_members", ["team_id"])
    op.create_table(
        "team_requests",
        sa.Column("volunteer_id", sa.String(length=32), nullable=False),
        sa.Column("team_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("volunteer_id", name=op.f("pk_team_requests")),
    )
    op.create_index(op.f("ix_team_requests_team_id"), "team_requests", ["team_id"])


def _sums() -> None:
    op.create_table(
        "ledger_moments",
        sa.Column("ledger", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("moment", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("ledger", name=op.f("pk_ledger_moments")),
    )
    op.create_table(
        "standings",
        sa.Column("board", sa.String(length=10), nullable=False),
        sa.Column("scope", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("mflop", sa.BigInteger(), nullable=False),
        sa.Column("recent", sa.Double(), nullable=False),
        sa.Column("shown", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("board", "scope", "account", name=op.f("pk_standings")),
    )
    for order in ("mflop", "recent"):
        op.create_index(f"ix_standings_{order}", "standings", ["board", "scope", "shown", order, "account"])
    op.create_table(
        "credit_days",
        sa.Column("board", sa.String(length=10), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mflop", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("board", "account", "day", name=op.f("pk_credit_days")),
    )


def _weigh() -> None:
    """Lines of before have neither weight nor time: the one run's model says the first, the second stays 0."""
    connection = op.get_bind()
    for run_id, document in connection.execute(sa.text("SELECT run_id, document FROM runs")).all():
        weight = {"run": run_id, "flop": FLOP_PER_TOKEN * _parameters(json.loads(document))}
        update = "UPDATE credit_lines SET mflop = tokens * (:flop / 1000) / 1000 WHERE run_id = :run"
        connection.execute(sa.text(update), weight)
    connection.execute(
        sa.text("INSERT INTO devices (worker_id) SELECT DISTINCT worker_id FROM credit_lines ORDER BY worker_id")
    )
    for scope in ("run_id", "''"):
        connection.execute(
            sa.text(
                "INSERT INTO standings (board, scope, account, tokens, mflop, recent, shown) "
                f"SELECT 'devices', {scope}, worker_id, SUM(tokens), SUM(mflop), 0, {sa.true().compile(connection)} "
                f"FROM credit_lines GROUP BY {'run_id, ' if scope == 'run_id' else ''}worker_id"
            )
        )
    connection.execute(
        sa.text(
            "INSERT INTO credit_days (board, account, day, mflop) "
            "SELECT 'devices', worker_id, 0, SUM(mflop) FROM credit_lines GROUP BY worker_id"
        )
    )


def _parameters(run: dict[str, Any]) -> int:
    total = 0
    for unit in (run.get(SHAPE) or {}).get("units", ()):
        for tensor in unit["tensors"]:
            size = 1
            for length in tensor["shape"]:
                size *= length
            total += size
    return total


def downgrade() -> None:
    op.create_table(
        "credit_sums",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "worker_id", name=op.f("pk_credit_sums")),
    )
    op.execute(
        "INSERT INTO credit_sums (run_id, worker_id, tokens) "
        "SELECT run_id, worker_id, SUM(tokens) FROM credit_lines GROUP BY run_id, worker_id"
    )
    op.drop_index("ix_credit_lines_worker_id", "credit_lines")
    with op.batch_alter_table("credit_lines") as lines:
        for name in ("mflop", "at", "moment"):
            lines.drop_column(name)
    tables = ("credit_days", "standings", "ledger_moments", "team_requests", "team_members", "teams")
    for table in (*tables, "passes", "device_links", "devices", "volunteers"):
        op.drop_table(table)
