"""What the export reads, on both databases, with more rows than a batch has."""

import pytest

from legion.ids import WorkerId
from legion_server.store import statistics
from legion_server.store.accounts import AccountStore, Volunteer
from legion_server.store.attribution import Board
from legion_server.store.database import Database
from legion_server.store.statistics import StatisticsStore
from legion_server.store.teams import Team, TeamStore

NOW = 1_767_225_600.0


async def names(database: Database, board: Board, field: str) -> list[object]:
    return [row[field] async for batch in StatisticsStore(database).batches(board) for row in batch]


@pytest.mark.parametrize("batch", [1, 3, 5, 100])
async def test_everybody_who_agreed_comes_once(database: Database, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(statistics, "BATCH", batch)
    accounts, teams = AccountStore(database), TeamStore(database)
    for number in range(10):
        letter = "abcdefghij"[number]
        who, agreed = letter * 16, number % 2 == 0
        await accounts.claim(Volunteer(who, letter, True, agreed, NOW), letter, letter, WorkerId(letter * 32), NOW)
        await teams.found(Team(f"t{number}", letter, "", who, NOW), letter, NOW)
    assert await names(database, "volunteers", "nickname") == list("acegi")
    assert await names(database, "teams", "name") == list("acegi")
    assert await names(database, "devices", "nickname") == list("acegi")
    assert await names(database, "devices", "mflop") == [0] * 5
    await accounts.unlink(WorkerId("a" * 32))
    assert await names(database, "devices", "nickname") == list("cegi")
