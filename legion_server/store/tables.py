"""The tables. What no query looks into is a JSON document, validated when it is read."""

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
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
    # For the operator's list. Older invites lack them.
    Column("made_at", Double),
    Column("uses", Integer),
    Column("purpose", String(8)),  # worker or relay
    Column("note", String(80)),
    Column("public_token", String(64)),  # of an invite that the join page shows to everybody
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

# The ledger: its lines only grow in number (`store.ledger`).
credit_lines = Table(
    "credit_lines",
    metadata,
    Column("run_id", String(32), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", String(32), primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    Column("mflop", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("moment", BigInteger, nullable=False),
    Index("ix_credit_lines_worker_id", "worker_id", "moment"),
)

# One row: how many changes there were of the ledger and of who owns what. Time as these know it: clocks go back.
ledger_moments = Table(
    "ledger_moments",
    metadata,
    Column("ledger", Integer, primary_key=True, autoincrement=False),
    Column("moment", BigInteger, nullable=False),
)

# One row: which of several servers decides. Its key is the term, so that whoever writes in a term can hold it fast
# while the leader goes on renewing the rest of the row (`store.leadership`).
leadership = Table(
    "leadership",
    metadata,
    Column("term", BigInteger, primary_key=True, autoincrement=False),
    Column("server", String(32), nullable=False),
    Column("host", String(255), nullable=False),
    Column("port", Integer, nullable=False),
    Column("renewed_at", Double, nullable=False),
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

# People, of whom nothing is known but a name they chose. Without a name: they asked to be forgotten.
volunteers = Table(
    "volunteers",
    metadata,
    Column("volunteer_id", String(32), primary_key=True),
    Column("nickname", String(24)),
    Column("nickname_key", String(64), unique=True),  # folded: two that look alike are one
    Column("recovery_sha256", String(64), unique=True),
    Column("listed", Boolean, nullable=False),  # on the boards
    Column("exported", Boolean, nullable=False),  # in the statistics export
    Column("created_at", Double, nullable=False),
)

# A worker's public number: all that strangers see of it.
devices = Table(
    "devices",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("worker_id", String(32), nullable=False, unique=True),
)

# Whose a device was, and when; what it earned then is theirs.
device_links = Table(
    "device_links",
    metadata,
    Column("worker_id", String(32), primary_key=True),
    Column("since", BigInteger, primary_key=True, autoincrement=False),  # moments of the ledger
    Column("until", BigInteger),
    Column("volunteer_id", String(32), nullable=False, index=True),
    Column("at", Double, nullable=False),
)

teams = Table(
    "teams",
    metadata,
    Column("team_id", String(32), primary_key=True),
    Column("name", String(40), nullable=False),
    Column("name_key", String(64), nullable=False, unique=True),
    Column("about", String(400), nullable=False),
    Column("founder", String(32)),
    Column("created_at", Double, nullable=False),
)

team_members = Table(
    "team_members",
    metadata,
    Column("volunteer_id", String(32), primary_key=True),
    Column("since", BigInteger, primary_key=True, autoincrement=False),
    Column("until", BigInteger),
    Column("team_id", String(32), nullable=False, index=True),
    Column("at", Double, nullable=False),
)

team_requests = Table(
    "team_requests",
    metadata,
    Column("volunteer_id", String(32), primary_key=True),
    Column("team_id", String(32), nullable=False, index=True),
    Column("at", Double, nullable=False),
)

# Secrets that are shown once and soon expire: codes that link a device, links that sign in. By hash.
passes = Table(
    "passes",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("volunteer_id", String(32), nullable=False, index=True),
    Column("expires_at", Double, nullable=False),
)

# Sums of the ledger's lines by whose they are, for the boards (`store.attribution`).
standings = Table(
    "standings",
    metadata,
    Column("board", String(10), primary_key=True),
    Column("scope", String(32), primary_key=True),  # a run's id, or empty: all of them
    Column("account", String(32), primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    Column("mflop", BigInteger, nullable=False),
    Column("recent", Double, nullable=False),  # see `domain.standing`
    Column("shown", Boolean, nullable=False),
    Index("ix_standings_mflop", "board", "scope", "shown", "mflop", "account"),
    Index("ix_standings_recent", "board", "scope", "shown", "recent", "account"),
)

# The same sums by day, for graphs of one account.
credit_days = Table(
    "credit_days",
    metadata,
    Column("board", String(10), primary_key=True),
    Column("account", String(32), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),  # since 1970, UTC
    Column("mflop", BigInteger, nullable=False),
)

# Who is signed in with a browser (`store.sessions`).
sessions = Table(
    "sessions",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("who", String(32), nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),
)

# What admins did (`store.audit`).
audit_log = Table(
    "audit_log",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("who", String(32), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("detail", Text, nullable=False),
)

# The document has its configuration and its prepared data.
run_queue = Table(
    "run_queue",
    metadata,
    Column("run_id", String(32), primary_key=True),
    Column("place", Integer, nullable=False),
    Column("document", Text, nullable=False),
)

run_archives = Table(
    "run_archives",
    metadata,
    Column("run_id", String(32), primary_key=True),
    Column("ended_at", Double, nullable=False),
    Column("document", Text, nullable=False),
)
