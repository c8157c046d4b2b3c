"""The tables. What no query looks into is a JSON document, validated when it is read."""

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

runs = Table("runs", metadata, Column("run_id", String(32), primary_key=True), Column("document", Text, nullable=False))

workers = Table(
    "workers", metadata, Column("worker_id", String(32), primary_key=True), Column("document", Text, nullable=False)
)

datasets = Table(
    "datasets",
    metadata,
    Column("run_id", String(32), primary_key=True),
    Column("document", Text, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)

# What the coordinator knows of the round being trained (`store.round_parts`); the log itself is `round_records`.
round_parts = Table(
    "round_parts", metadata, Column("name", String(64), primary_key=True), Column("document", Text, nullable=False)
)

# The newest revision of each round's plan, kept as long as the record of the round before it.
round_plans = Table(
    "round_plans",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)

round_records = Table(
    "round_records",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(32), nullable=False),
    Column("at", Double, nullable=False),
    Column("public", Text, nullable=False),
    Column("private", Text, nullable=False),
)

invites = Table(
    "invites",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("uses_left", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
)

# A worker whose enrolment was answered into a broken connection asks again: that is not a second use.
invite_uses = Table(
    "invite_uses",
    metadata,
    Column("token_sha256", String(64), ForeignKey("invites.token_sha256", ondelete="CASCADE"), primary_key=True),
    Column("worker_id", String(32), primary_key=True),
)

step_records = Table(
    "step_records",
    metadata,
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", String(32), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("loss", Double, nullable=False),
    Column("grad_norm", Double, nullable=False),
    Column("lr", Double, nullable=False),
    Column("step_tokens", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("micro_batches", BigInteger, nullable=False),
    Column("step_s", Double, nullable=False),
    Column("compute_s", Double, nullable=False),
    Column("waiting_s", Double, nullable=False),
    Column("sent_bytes", BigInteger, nullable=False),
    Column("received_bytes", BigInteger, nullable=False),
    Column("peak_rss_bytes", BigInteger, nullable=False),
    Column("state_bytes", BigInteger, nullable=False),
)

# The ledger, and the sums of its lines by account (`store.ledger`).
credit_lines = Table(
    "credit_lines",
    metadata,
    Column("run_id", String(32), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", String(32), primary_key=True),
    Column("tokens", BigInteger, nullable=False),
)

credit_sums = Table(
    "credit_sums",
    metadata,
    Column("run_id", String(32), primary_key=True),
    Column("worker_id", String(32), primary_key=True),
    Column("tokens", BigInteger, nullable=False),
)

# What each worker has measured lately of its links to others, and to the server.
links = Table(
    "links",
    metadata,
    Column("worker_id", String(32), primary_key=True),
    Column("peer", String(32), primary_key=True),
    Column("document", Text, nullable=False),
)

# The newest few.
text_samples = Table(
    "text_samples",
    metadata,
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", String(32), primary_key=True),
    Column("text", Text, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("loss", Double, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)
