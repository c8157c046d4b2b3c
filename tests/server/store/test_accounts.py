"""Volunteers, devices, teams: whose credit is whose, proven against the ledger whatever happens in whatever order."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from legion.errors import NameTaken, NotFound
from legion.ids import RunId, WorkerId
from legion_server.domain.accounts import folded
from legion_server.domain.credit import RoundCredit
from legion_server.domain.standing import DAY_S, EPOCH_S, HALF_LIFE_S, credit_a_day, day_of
from legion_server.store import tables as t
from legion_server.store.accounts import AccountStore, Volunteer
from legion_server.store.api import Change
from legion_server.store.database import Database
from legion_server.store.proof import differences
from legion_server.store.sql import SqlStore
from legion_server.store.standings import StandingStore
from legion_server.store.teams import Team, TeamStore

A, B, C = (WorkerId(letter * 32) for letter in "abc")
ADA, BOB = "a" * 16, "b" * 16
RUN, OTHER = RunId("run-1"), RunId("run-2")
MILLION = 10**6 // 6  # parameters of a model whose token weighs almost one MFLOP
START = EPOCH_S + 40 * DAY_S


class Hall:
    """All stores of a database, and a clock."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.accounts, self.teams = AccountStore(database), TeamStore(database)
        self.boards, self.rounds = StandingStore(database), SqlStore(database)
        self.now = START
        self._round = itertools.count()

    async def credit(self, tokens: dict[WorkerId, int], run: RunId = RUN, number: int | None = None) -> None:
        number = next(self._round) if number is None else number
        await self.rounds.save(Change(credit=RoundCredit(run, number, tokens, 10**6, self.now)))

    async def claim(self, volunteer_id: str, worker: WorkerId, name: str | None = None, *, listed: bool = True) -> None:
        name = name or volunteer_id
        person = Volunteer(volunteer_id, name, listed, False, self.now)
        await self.accounts.claim(person, folded(name), f"phrase of {volunteer_id}", worker, self.now)

    async def found(self, team_id: str, founder: str, name: str | None = None) -> None:
        await self.teams.found(Team(team_id, name or team_id, "", founder, self.now), folded(name or team_id), self.now)

    async def board(self, board: str, **how: object) -> list[tuple[int, str, int]]:
        rows = await self.boards.page(board, **how)  # type: ignore[arg-type]
        return [(row.rank, row.account, row.tokens) for row in rows]

    async def proven(self) -> None:
        assert [said async for said in differences(self.database)] == []


@pytest.fixture
def hall(database: Database) -> Hall:
    return Hall(database)


async def test_the_past_of_a_device_comes_with_it(hall: Hall) -> None:
    await hall.credit({A: 10, B: 5})
    assert await hall.board("volunteers") == []
    await hall.claim(ADA, A, "Ada")
    assert await hall.board("volunteers") == [(1, ADA, 10)]
    hall.now += DAY_S
    await hall.credit({A: 3, B: 3}, OTHER)
    assert await hall.board("volunteers") == [(1, ADA, 13)]
    assert await hall.board("volunteers", scope=OTHER) == [(1, ADA, 3)]
    assert await hall.board("devices") == [(1, A, 13), (2, B, 8)]
    await hall.accounts.link(B, ADA, hall.now)
    assert await hall.board("volunteers") == [(1, ADA, 21)]
    assert [device.number for device in await hall.accounts.devices(ADA)] == [1, 2]
    await hall.proven()


async def test_a_device_that_changes_hands_leaves_its_past(hall: Hall) -> None:
    await hall.claim(ADA, A)
    await hall.credit({A: 10})
    await hall.claim(BOB, A)
    await hall.credit({A: 4})
    assert await hall.board("volunteers") == [(1, ADA, 10), (2, BOB, 4)]
    assert (await hall.accounts.of_worker(A)) == await hall.accounts.by_id(BOB)
    await hall.accounts.unlink(A)
    await hall.credit({A: 2})
    assert await hall.board("volunteers") == [(1, ADA, 10), (2, BOB, 4)]
    assert await hall.accounts.of_worker(A) is None
    await hall.proven()


async def test_a_teams_credit_is_what_members_earned_in_it(hall: Hall) -> None:
    await hall.claim(ADA, A)
    await hall.claim(BOB, B)
    await hall.credit({A: 100, B: 100})
    await hall.found("t1", ADA)
    await hall.teams.ask("t1", BOB, hall.now)
    assert [member.volunteer_id for member in await hall.teams.requests("t1")] == [BOB]
    await hall.credit({A: 10, B: 10})
    assert await hall.teams.admit("t1", BOB, hall.now)
    assert not await hall.teams.admit("t1", BOB, hall.now)
    await hall.credit({A: 1, B: 1})
    assert await hall.board("teams") == [(1, "t1", 12)]
    await hall.teams.leave(ADA)
    team = await hall.teams.by_id("t1")
    assert team is not None
    assert team.founder == BOB, "the oldest member follows"
    await hall.credit({A: 1000, B: 2})
    assert await hall.board("teams") == [(1, "t1", 14)]
    await hall.teams.leave(BOB)
    assert await hall.teams.members("t1") == []
    assert await hall.teams.adopt("t1", ADA, hall.now)
    assert not await hall.teams.adopt("t1", BOB, hall.now)
    await hall.proven()


async def test_equal_sums_share_a_rank_and_a_cursor_goes_through_all(hall: Hall) -> None:
    workers = [WorkerId(f"{n:032d}") for n in range(25)]
    tokens = {worker: 100 - n // 4 for n, worker in enumerate(workers)}
    await hall.credit(tokens)
    seen = []
    after = None
    while rows := await hall.boards.page("devices", after=after, limit=3):
        seen += rows
        after = rows[-1].place("mflop")
    expected = sorted(((sum(v > mine for v in tokens.values()) + 1), mine) for mine in tokens.values())
    assert [(row.rank, row.tokens) for row in seen] == expected
    assert len({row.account for row in seen}) == 25
    for row in seen:
        assert await hall.boards.one("devices", row.account) == row


async def test_who_is_not_listed_is_on_no_board(hall: Hall) -> None:
    await hall.claim(ADA, A, "Ada", listed=False)
    await hall.claim(BOB, B, "Bob")
    await hall.credit({A: 10, B: 5})
    assert await hall.board("volunteers") == [(1, BOB, 5)]
    assert await hall.board("devices") == [(1, B, 5)]
    assert await hall.boards.search("volunteers", "a") == []
    mine = await hall.boards.one("volunteers", ADA)
    assert mine is not None
    assert (mine.rank, mine.tokens) == (1, 10), "its own place it may see"
    ada = await hall.accounts.by_id(ADA)
    assert ada is not None
    await hall.accounts.change(replace(ada, listed=True), "ada")
    assert await hall.board("volunteers") == [(1, ADA, 10), (2, BOB, 5)]
    assert await hall.board("devices") == [(1, A, 10), (2, B, 5)]
    assert [row.name for row in await hall.boards.search("volunteers", folded("AD"))] == ["Ada"]


async def test_the_forgotten_leave_numbers_and_nothing_else(hall: Hall) -> None:
    await hall.claim(ADA, A, "Ada")
    await hall.claim(BOB, B, "Bob")
    await hall.found("t1", ADA)
    await hall.teams.ask("t1", BOB, hall.now)
    await hall.credit({A: 10, B: 5})
    await hall.accounts.add_pass("device", "code", ADA, hall.now + 100)
    await hall.accounts.forget(ADA)
    assert await hall.accounts.by_id(ADA) is None
    assert await hall.accounts.by_key("ada") is None
    assert await hall.accounts.by_recovery(f"phrase of {ADA}") is None
    assert await hall.accounts.use_pass("device", "code", hall.now) is None
    assert await hall.accounts.of_worker(A) is None
    assert await hall.board("volunteers") == [(1, BOB, 5)]
    assert await hall.board("devices") == [(1, A, 10), (2, B, 5)]
    assert await hall.board("teams") == [(1, "t1", 10)]
    with pytest.raises(NotFound):
        await hall.accounts.link(C, ADA, hall.now)
    await hall.claim("c" * 16, A, "Ada")  # the name is free again
    await hall.proven()


async def test_names_are_taken_once_however_they_are_written(hall: Hall) -> None:
    await hall.claim(ADA, A, "Ada")
    with pytest.raises(NameTaken, match="ADA"):
        await hall.claim(BOB, B, "ADA")
    await hall.claim(BOB, B, "Bob")
    bob = await hall.accounts.by_id(BOB)
    assert bob is not None
    with pytest.raises(NameTaken):
        await hall.accounts.change(replace(bob, nickname="ada"), "ada")
    await hall.found("t1", ADA, "The Few")
    with pytest.raises(NameTaken, match="the few"):
        await hall.found("t2", BOB, "the few")
    assert await hall.teams.of_volunteer(BOB) is None


async def test_a_pass_is_good_once_and_not_for_long(hall: Hall) -> None:
    await hall.claim(ADA, A, "Ada")
    await hall.accounts.add_pass("device", "first", ADA, hall.now + 10)
    await hall.accounts.add_pass("device", "second", ADA, hall.now + 10)
    await hall.accounts.add_pass("sign-in", "link", ADA, hall.now + 10)
    assert await hall.accounts.use_pass("device", "first", hall.now) is None, "a newer one takes its place"
    assert await hall.accounts.use_pass("device", "link", hall.now) is None, "it is for something else"
    holder = await hall.accounts.holder_of_pass("device", "second", hall.now)
    assert holder is not None
    assert holder.nickname == "Ada"
    uses = await asyncio.gather(*(hall.accounts.use_pass("device", "second", hall.now) for _ in range(5)))
    assert sorted(uses, key=str) == [None] * 4 + [ADA] or sorted(uses, key=str) == [ADA] + [None] * 4
    assert await hall.accounts.holder_of_pass("sign-in", "link", hall.now + 10) is None
    assert await hall.accounts.use_pass("sign-in", "link", hall.now + 10) is None


async def test_the_recent_average_is_the_rate_of_who_earns_steadily(hall: Hall) -> None:
    for _ in range(120):
        await hall.credit({A: 3 * 10**6})
        hall.now += DAY_S / 2
    row = await hall.boards.one("devices", A)
    assert row is not None
    credit = 6 * row.tokens / 10**6
    assert row.mflop == 6 * 10**6 * row.tokens // 10**6
    assert credit_a_day(row.recent, hall.now) == pytest.approx(2 * 18, rel=0.05)
    assert credit_a_day(row.recent, hall.now + HALF_LIFE_S) == pytest.approx(18, rel=0.05)
    assert credit == 120 * 18
    days = await hall.boards.days("devices", A, hall.now)
    assert days[day_of(START)] == 2 * 18 * 10**6
    assert sum(days.values()) == row.mflop
    await hall.credit({B: 10**8})
    assert [account for _, account, _ in await hall.board("devices", order="recent")] == [B, A]
    assert [account for _, account, _ in await hall.board("devices")] == [A, B]
    await hall.proven()


async def test_the_proof_finds_what_was_changed(hall: Hall) -> None:
    await hall.claim(ADA, A)
    await hall.credit({A: 10, B: 5})
    await hall.proven()
    async with hall.database.writing() as connection:
        more = t.standings.c.mflop + 1
        await connection.execute(sa.update(t.standings).where(t.standings.c.board == "volunteers").values(mflop=more))
        await connection.execute(sa.delete(t.credit_days).where(t.credit_days.c.account == B))
    said = [text async for text in differences(hall.database)]
    assert len(said) == 3
    assert [text.split(" ")[0] for text in said] == ["volunteers", "volunteers", "devices"]


WORKERS = st.sampled_from([A, B, C])
PEOPLE = st.sampled_from([ADA, BOB, "c" * 16])
TEAMS = st.sampled_from(["t1", "t2"])
ACTION = st.one_of(
    st.tuples(st.just("credit"), st.dictionaries(WORKERS, st.integers(1, 10**9)), st.sampled_from([RUN, OTHER])),
    st.tuples(st.just("again"), st.integers(0, 5), st.dictionaries(WORKERS, st.integers(1, 10**9))),
    st.tuples(st.just("claim"), PEOPLE, WORKERS, st.booleans()),
    st.tuples(st.just("link"), WORKERS, PEOPLE),
    st.tuples(st.just("unlink"), WORKERS),
    st.tuples(st.just("found"), TEAMS, PEOPLE),
    st.tuples(st.just("join"), TEAMS, PEOPLE),
    st.tuples(st.just("leave"), PEOPLE),
    st.tuples(st.just("forget"), PEOPLE),
    st.tuples(st.just("wait"), st.floats(-10.0, 10 * DAY_S)),
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(ACTION, max_size=25))
def test_boards_are_always_the_sums_of_the_ledger(
    actions: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('hall') / 'test.db'}"

    async def play() -> None:
        database = Database(url)
        await database.open()
        try:
            hall = Hall(database)
            for name, *arguments in actions:
                await DOINGS[name](hall, *arguments)
            await hall.proven()
        finally:
            await database.close()

    asyncio.run(play())


async def _again(hall: Hall, number: int, tokens: dict[WorkerId, int]) -> None:
    await hall.credit(tokens, RUN, number)


async def _claim(hall: Hall, volunteer_id: str, worker: WorkerId, listed: bool) -> None:
    try:
        await hall.claim(volunteer_id, worker, listed=listed)
    except NameTaken:
        return


async def _link(hall: Hall, worker: WorkerId, volunteer_id: str) -> None:
    if await hall.accounts.by_id(volunteer_id) is not None:
        await hall.accounts.link(worker, volunteer_id, hall.now)


async def _found(hall: Hall, team_id: str, volunteer_id: str) -> None:
    if await hall.accounts.by_id(volunteer_id) is not None and await hall.teams.by_id(team_id) is None:
        await hall.found(team_id, volunteer_id)


async def _join(hall: Hall, team_id: str, volunteer_id: str) -> None:
    team = await hall.teams.by_id(team_id)
    if team is not None and await hall.accounts.by_id(volunteer_id) is not None:
        if not await hall.teams.adopt(team_id, volunteer_id, hall.now):
            await hall.teams.ask(team_id, volunteer_id, hall.now)
            await hall.teams.admit(team_id, volunteer_id, hall.now)
        members = [member.volunteer_id for member in await hall.teams.members(team_id)]
        team = await hall.teams.by_id(team_id)
        assert team is not None
        assert team.founder in members


async def _wait(hall: Hall, seconds: float) -> None:
    hall.now += seconds


DOINGS: dict[str, Callable[..., Awaitable[None]]] = {
    "credit": Hall.credit,
    "again": _again,
    "claim": _claim,
    "link": _link,
    "unlink": lambda hall, worker: hall.accounts.unlink(worker),
    "found": _found,
    "join": _join,
    "leave": lambda hall, volunteer_id: hall.teams.leave(volunteer_id),
    "forget": lambda hall, volunteer_id: hall.accounts.forget(volunteer_id),
    "wait": _wait,
}
