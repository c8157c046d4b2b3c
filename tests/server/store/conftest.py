"""The databases that every store is tested on."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from legion_server.store.database import Database

POSTGRES = os.environ.get("LEGION_TEST_POSTGRES_URL")
NEEDS_POSTGRES = pytest.mark.skipif(POSTGRES is None, reason="LEGION_TEST_POSTGRES_URL is not set")


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=NEEDS_POSTGRES),
    ]
)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    assert POSTGRES is not None
    engine = sa.ext.asyncio.create_async_engine(POSTGRES)
    schema = f"test_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        await connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    await engine.dispose()
    own = sa.make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    return own.render_as_string(hide_password=False)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await database.open()
    yield database
    await database.close()
