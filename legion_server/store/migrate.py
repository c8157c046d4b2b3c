"""Bring a database to the newest schema with Alembic, inside the caller's transaction."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from legion.errors import StorageFailed

MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """StorageFailed when the database was written by a newer Legion."""
    config = alembic_config(connection)
    script = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found == script.get_current_head():
        return
    if found is not None and found not in {revision.revision for revision in script.walk_revisions()}:
        raise StorageFailed(
            f"the database has schema {found}, which this version of Legion does not know",
            hint="Use the Legion version that wrote the data folder, or a newer one.",
        )
    command.upgrade(config, "head")


def revisions() -> tuple[str, ...]:
    """All schemas that this version knows, the oldest first."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    newest_first = ScriptDirectory.from_config(config).walk_revisions()
    return tuple(revision.revision for revision in newest_first)[::-1]
