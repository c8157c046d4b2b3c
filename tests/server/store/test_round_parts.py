"""What a decision about rounds writes: no more than it changed; all of it or nothing, whenever the server is killed."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from coordinated_rounds import Table, config_of
from round_workers import inclusion

from legion.ids import ClusterId
from legion_server.domain import rounds as rd
from legion_server.domain import span_reports
from legion_server.domain.rounds import Rounds
from legion_server.store.api import Change
from legion_server.store.database import Database
from legion_server.store.migrate import alembic_config
from legion_server.store.round_parts import ROUNDS, changed, joined
from legion_server.store.sql import SqlStore

MOST_BYTES = 20_000  # of a report's write, with 100 clusters
SIGKILLED = -9
SAVE = """
import asyncio, os, signal, sys
import sqlalchemy as sa
from coordinated_rounds import Table, config_of
from legion_server.store.api import Change
from legion_server.store.database import Database
from legion_server.store.sql import SqlStore

left, url = int(sys.argv[1]), sys.argv[2]

def changes():
    # Reports, arrivals, terms that are raised, commits with their records and the plans that follow.
    table = Table(config_of(3), "abc")
    table.follow()
    before, seen, plan = None, 0, None
    def change():
        nonlocal before, seen, plan
        new = table.rounds.plan
        found = Change(
            rounds=table.rounds, rounds_before=before, records=tuple(table.records[seen:]),
            plans=() if new is None or new is plan else (new,),
        )
        before, seen, plan = table.rounds, len(table.records), new
        return found, seen
    yield change()
    for number in range(4):
        for span in range(len(table.plan.spans)):
            table.report(span, digest="0123456789"[span], stored=False)
            yield change()
        if number == 1:
            table.tick(1000.0)
            yield change()
        for span in range(len(table.plan.spans)):
            table.report(span, digest="0123456789"[span])
            yield change()

def dies(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def save():
    database = Database(url)
    store = SqlStore(database)
    await store.open()
    for event in ("before_cursor_execute", "commit"):
        sa.event.listen(database._engine.sync_engine, event, dies)
    found = (await store.load()).rounds
    kept = await store.records(0, 100)
    past = found is None
    for number, (change, records) in enumerate(changes()):
        if past:
            await store.save(change)
            print(number, flush=True)
        elif change.rounds == found:
            assert len(kept) == records, (number, kept)
            print(number, flush=True)
            past = True
    assert past, "what was loaded was never saved"
    assert (await store.load()).rounds == change.rounds
    await store.close()

asyncio.run(save())
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(Database(url))
    await store.open()
    yield store
    await store.close()


def of_a_hundred(rounds: Rounds) -> Rounds:
    """With as many participants as one hundred, which are one again and again."""
    plan = rounds.plan
    assert plan is not None
    (one, seat) = plan.participants[0], next(iter(rounds.seats.values()))
    names = [ClusterId(f"c{number}") for number in range(1, 101)]
    many = tuple(one.model_copy(update={"cluster": name}) for name in names)
    changed_plan = plan.model_copy(update={"participants": many})
    return replace(rounds, plan=changed_plan, seats=dict.fromkeys(names, seat))


def test_a_report_of_a_hundred_clusters_writes_little() -> None:
    table = Table(config_of(4), "abcd")
    rounds, config = of_a_hundred(table.rounds), table.run.config
    plan = rounds.plan
    assert plan is not None
    saved: dict[str, str] = changed(None, rounds)[0]
    for span in range(len(plan.spans)):
        included = tuple(inclusion(plan, span, p, 8) for p in plan.participants)
        digest = hashlib.sha256(bytes([span])).hexdigest()
        report = table.report_of(span, digest="a", included=included, refused={"late": span})
        report = report.model_copy(update={"digest": digest})
        verdict = span_reports.accept(rounds, config, plan.reducer(span), report)
        assert verdict.refusal is None
        for after, most in ((verdict.rounds, MOST_BYTES), (rd.stored(verdict.rounds, digest), 100)):
            written, gone = changed(rounds, after)
            assert gone == set()
            assert 0 < sum(len(name) + len(document) for name, document in written.items()) <= most
            saved |= written
            rounds = after
    assert joined(saved) == rounds


async def test_what_was_reported_in_the_past_goes_with_its_round(store: SqlStore) -> None:
    table = Table(config_of(2), "ab")
    before = None
    for _ in range(2):
        for span in (0, 1):
            assert table.report(span) is None
            await store.save(Change(rounds=table.rounds, rounds_before=before))
            before = table.rounds
            assert (await store.load()).rounds == before
    ended = replace(before or table.rounds, plan=None, turns=())
    await store.save(Change(rounds=ended, rounds_before=before))
    assert (await store.load()).rounds == ended
    await store.save(Change(rounds=table.rounds))  # whatever was there
    assert (await store.load()).rounds == table.rounds


async def test_a_state_that_was_one_document_is_taken_apart(url: str) -> None:
    table = Table(config_of(2), "ab")
    table.whole_round()
    assert table.report(0, stored=False) is None
    engine = sa.ext.asyncio.create_async_engine(url)
    document = ROUNDS.dump_json(table.rounds).decode()
    async with engine.begin() as connection:
        await connection.run_sync(lambda plain: command.upgrade(alembic_config(plain), "0002"))
        await connection.execute(sa.text("INSERT INTO round_state VALUES ('', :d)"), {"d": document})
    store = SqlStore(Database(url))
    await store.open()
    assert (await store.load()).rounds == table.rounds
    ended = replace(table.rounds, plan=None, turns=())
    await store.save(Change(rounds=ended, rounds_before=table.rounds))
    assert (await store.load()).rounds == ended
    await store.save(Change(rounds=table.rounds, rounds_before=ended))
    await store.close()
    async with engine.begin() as connection:
        await connection.run_sync(lambda plain: command.downgrade(alembic_config(plain), "0002"))
        (again,) = (await connection.execute(sa.text("SELECT document FROM round_state"))).scalars()
    await engine.dispose()
    assert ROUNDS.validate_python(json.loads(again)) == table.rounds


async def test_a_server_that_is_killed_between_any_two_statements_has_whole_decisions(url: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    kills, saved = 0, -1
    while True:
        arguments = [sys.executable, "-c", SAVE, str(5 + 6 * kills), url]
        done = await asyncio.to_thread(
            subprocess.run, arguments, capture_output=True, text=True, check=False, env=environment
        )
        numbers = [int(line) for line in done.stdout.split()]
        if numbers and saved >= 0:
            assert numbers[0] in (saved, saved + 1)  # what was saved stays, and nothing comes of what was not begun
        saved = numbers[-1] if numbers else saved
        if done.returncode != SIGKILLED:
            break
        kills += 1
    assert done.returncode == 0, done.stderr
    assert kills > 5
    assert saved > 20
