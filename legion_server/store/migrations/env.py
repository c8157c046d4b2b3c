"""Alembic's entry point; the connection comes from `store.migrate`."""

from alembic import context

from legion_server.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a table in place
)
context.run_migrations()
