"""The state of the round being trained, in parts."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

STATE = sa.table("round_state", sa.column("run_id"), sa.column("document"))
PARTS = sa.table("round_parts", sa.column("name"), sa.column("document"))


def upgrade() -> None:
    op.create_table(
        "round_parts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_round_parts")),
    )
    found = op.get_bind().execute(sa.select(STATE.c.document)).scalar()
    if found is not None:
        whole = json.loads(found)
        turns = enumerate(whole.pop("turns", ()))
        whole.pop("speeds", None)
        whole |= {f"turns/{span}/{name}": value for span, turn in turns for name, value in turn.items()}
        op.bulk_insert(PARTS, [{"name": name, "document": json.dumps(value)} for name, value in whole.items()])
    op.drop_table("round_state")


def downgrade() -> None:
    op.create_table(
        "round_state",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_round_state")),
    )
    rows = {row.name: json.loads(row.document) for row in op.get_bind().execute(sa.select(PARTS))}
    if rows:
        whole = {name: value for name, value in rows.items() if "/" not in name}
        turns: dict[int, dict[str, object]] = {}
        for name in rows.keys() - whole.keys():
            _, span, field = name.split("/")
            turns.setdefault(int(span), {})[field] = rows[name]
        document = json.dumps(whole | {"turns": [turns[span] for span in sorted(turns)]})
        op.bulk_insert(STATE, [{"run_id": "", "document": document}])
    op.drop_table("round_parts")
