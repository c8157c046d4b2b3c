"""Which round an update belongs to, and what it costs to ask."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coordinated_rounds import Table, config_of

from legion.rounds import RoundRecord
from legion_server.domain.rounds import Rounds
from legion_server.service.update_index import UpdateIndex
from legion_server.store.api import Change
from legion_server.store.database import Database
from legion_server.store.sql import SqlStore


async def rounds_of(store: SqlStore, count: int) -> tuple[Rounds, list[RoundRecord]]:
    """Committed; each round has an update of its own for its two spans."""
    table = Table(config_of(2), "ab")
    for number in range(count):
        for span in (0, 1):
            assert table.report(span, digest="0123456789abcdef"[number]) is None
    await store.save(Change(records=tuple(table.records)))
    return table.rounds, table.records


async def test_random_digests_cost_nothing_that_grows_with_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlStore(Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"))
    await store.open()
    rounds, records = await rounds_of(store, 11)
    index, read, asked = UpdateIndex(store), store.records, []

    async def counted(since: int, limit: int) -> list[Any]:
        asked.append(since)
        return list(await read(since, limit))

    monkeypatch.setattr(store, "records", counted)
    earlier = replace(rounds, committed=5)
    assert (await index.rounds_by_digest(earlier))[records[4].spans[0].digest] == 4
    for _ in range(50):
        named = await index.rounds_by_digest(rounds)
        assert "f" * 64 not in named
    assert asked == [0, 4, 5, 9]
    assert named == {record.spans[0].digest: record.round for record in records}
    assert await index.rounds_by_digest(rounds) is named
    kept = await index.rounds_by_digest(replace(rounds, first_record=9))
    assert sorted(kept.values()) == [9, 10]
    assert asked == [0, 4, 5, 9]
    await store.close()
