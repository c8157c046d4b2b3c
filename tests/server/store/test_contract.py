"""What every store promises. SQLite always; PostgreSQL where LEGION_TEST_POSTGRES_URL names an empty database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from coordinated_rounds import Table, config_of

from legion.config import RunConfig
from legion.errors import InviteExpired, InviteInvalid, InviteUsed, StorageFailed, Unusable
from legion.ids import Epoch, RunId, WorkerId
from legion.links import SERVER
from legion.messages import DatasetManifest
from legion.reports import EvaluationRecord, MetricsReport, StepRecord, TextSample
from legion_server.domain import checkpoints as cp
from legion_server.domain.credit import RoundCredit
from legion_server.domain.happenings import Happening
from legion_server.domain.links import Sample
from legion_server.domain.membership import Worker
from legion_server.domain.plan import make_plan
from legion_server.domain.runs import Failure, Run
from legion_server.store.api import Change, Dataset, Loaded, Numbered, Store
from legion_server.store.database import Database
from legion_server.store.invites import InviteStore, StoredInvite
from legion_server.store.migrate import alembic_config
from legion_server.store.sql import KEPT_SAMPLES, SqlStore
from legion_server.store.tables import credit_lines, metadata

A, B = WorkerId("a" * 32), WorkerId("b" * 32)
MakeWorker = Callable[..., Worker]


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = SqlStore(Database(url))
    await store.open()
    yield store
    await store.close()


def record(step: int, loss: float = 2.0, tokens: int = 10) -> StepRecord:
    return StepRecord(
        step=step,
        loss=loss,
        grad_norm=1.0,
        lr=0.1,
        step_tokens=tokens * 2,
        tokens=tokens,
        micro_batches=1,
        step_s=0.5,
        compute_s=0.25,
        waiting_s=0.125,
        sent_bytes=2**40,
        received_bytes=3,
        peak_rss_bytes=100 + step,
        state_bytes=7,
    )


def report(worker: WorkerId, *steps: StepRecord, epoch: int = 1) -> Change:
    return Change(report=(worker, MetricsReport(epoch=Epoch(epoch), steps=steps)))


async def test_an_empty_store_holds_nothing(store: Store) -> None:
    assert await store.load() == Loaded(None, None, (), (), ())
    assert await store.tokens() == 0
    assert await store.summaries(0, 10) == []


async def test_what_was_saved_is_loaded(url: str, store: Store, make_worker: MakeWorker) -> None:
    worker = make_worker("a")
    plan = make_plan(RunId("run-1"), RunConfig(), Epoch(1), 0, [worker])
    run = Run(RunId("run-1"), RunConfig(), "failed", Epoch(1), plan, 0, 3, 5.5, Failure("m", "p", A, hearsay=True))
    dataset = Dataset(
        DatasetManifest(
            fingerprint="0" * 64,
            kind="packed",
            token_bytes=2,
            vocab_size=257,
            seq_len=8,
            tokenizer_sha256="1" * 64,
            end_of_text=256,
        ),
        3.0,
        None,
    )
    checkpoint = cp.begin(run.run_id, plan, 4, 99)
    event = Numbered(1, 7.25, Happening("phase", {"step": 1}, {"failure": "x"}))
    await store.save(Change(run=run, dataset=dataset, workers=(worker,), checkpoints=(checkpoint,), events=(event,)))
    again = SqlStore(Database(url))
    await again.open()
    assert await again.load() == Loaded(run, dataset, (worker,), (checkpoint,), (event,))
    await again.close()


async def test_saving_again_replaces(store: Store, make_worker: MakeWorker) -> None:
    worker = make_worker("a")
    run = Run(RunId("run-1"), RunConfig())
    await store.save(Change(run=run, workers=(worker,)))
    await store.save(Change(run=replace(run, step=9), workers=(replace(worker, name="new"),)))
    loaded = await store.load()
    assert loaded.run is not None
    assert loaded.run.step == 9
    assert [w.name for w in loaded.workers] == ["new"]


async def test_old_events_and_dropped_checkpoints_go(store: Store, make_worker: MakeWorker) -> None:
    plan = make_plan(RunId("run-1"), RunConfig(), Epoch(1), 0, [make_worker("a")])
    checkpoints = tuple(cp.begin(RunId("run-1"), plan, step, 0) for step in (1, 2))
    events = tuple(Numbered(n, 0.0, Happening("config")) for n in range(1, 6))
    await store.save(Change(checkpoints=checkpoints, events=events))
    newer = (Numbered(6, 0.0, Happening("config")),)
    await store.save(Change(dropped_checkpoints=(1,), events=newer, keep_events_after=4))
    loaded = await store.load()
    assert [c.step for c in loaded.checkpoints] == [2]
    assert [event.number for event in loaded.events] == [5, 6]


async def test_a_change_that_fails_leaves_nothing(store: Store, make_worker: MakeWorker) -> None:
    event = Numbered(1, None, Happening("config"))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="database"):
        await store.save(Change(workers=(make_worker("a"),), events=(event,)))
    assert (await store.load()).workers == ()


async def test_an_event_in_the_place_of_one_that_nobody_was_told_of(store: Store) -> None:
    await store.save(Change(events=tuple(Numbered(number, 0.0, Happening("config")) for number in (1, 2))))
    await store.save(Change(events=(Numbered(1, 0.0, Happening("phase")),)))
    assert [event.happening.type for event in (await store.load()).events] == ["phase"]


async def test_reports_count_once(store: Store) -> None:
    for _ in range(2):
        await store.save(report(A, record(1), record(2)))
    await store.save(report(B, record(1, tokens=30), record(2)))
    totals = await store.totals()
    assert [(t.worker_id, t.tokens, t.sent_bytes, t.peak_rss_bytes) for t in totals] == [
        (A, 20, 2**41, 102),
        (B, 40, 2**41, 102),
    ]
    assert totals[0].compute_s == pytest.approx(0.5)


async def test_summaries_are_steps_not_reports(store: Store) -> None:
    await store.save(report(A, *(record(step, loss=1 / step) for step in range(1, 8))))
    await store.save(report(B, record(1, loss=1.0)))
    assert [s.step for s in await store.summaries(0, 100)] == [1, 2, 3, 4, 5, 6, 7]
    assert [s.step for s in await store.summaries(5, 100)] == [6, 7]
    assert [s.step for s in await store.summaries(None, 2)] == [6, 7]
    assert [s.step for s in await store.summaries(0, 2)] == [1, 2]
    assert [s.step for s in await store.summaries(2, 3)] == [3, 4, 5]
    assert [s.step for s in await store.summaries(7, 3)] == []
    assert [(b.first, b.last) for b in await store.loss_buckets(3)] == [(1, 3), (4, 6), (7, 7)]
    assert [(b.first, b.last) for b in await store.loss_buckets(1)] == [(step, step) for step in range(1, 8)]
    first = (await store.summaries(0, 100))[0]
    assert (first.loss, first.tokens, first.tokens_per_s) == (1.0, 20, 40.0)
    assert await store.tokens() == 7 * 20


async def test_what_lies_beyond_the_checkpoint_is_superseded(store: Store) -> None:
    evaluations = tuple(EvaluationRecord(step=s, loss=2.0, tokens=5) for s in (2, 4))
    both = MetricsReport(epoch=Epoch(1), steps=tuple(record(s, loss=9.0) for s in range(1, 5)), evaluations=evaluations)
    await store.save(Change(report=(A, both)))
    await store.save(Change(superseded_after=2))
    await store.save(report(B, record(3, loss=1.0), epoch=2))
    assert [(s.step, s.loss) for s in await store.summaries(0, 10)] == [(1, 9.0), (2, 9.0), (3, 1.0)]
    assert [e.step for e in await store.evaluations()] == [2]


async def test_samples_are_those_that_were_not_superseded(store: Store) -> None:
    assert await store.samples() == []
    first, second = (TextSample(step=step, text=f"<b>after {step}\n\U0001f600") for step in (2, 4))
    for _ in range(2):
        await store.save(Change(report=(A, MetricsReport(epoch=Epoch(1), samples=(first, second)))))
    again = TextSample(step=4, text="another cluster's")
    await store.save(Change(report=(B, MetricsReport(epoch=Epoch(2), samples=(again,)))))
    assert await store.samples() == [(A, second), (B, again), (A, first)]
    await store.save(Change(superseded_after=2))
    assert await store.samples() == [(A, first)]


async def test_only_the_newest_samples_are_kept(store: Store) -> None:
    for start in range(1, 31, 5):
        samples = tuple(TextSample(step=step, text="x") for step in range(start, start + 5))
        await store.save(Change(report=(A, MetricsReport(epoch=Epoch(1), samples=samples))))
    assert [sample.step for _, sample in await store.samples()] == list(range(30, 30 - KEPT_SAMPLES, -1))


async def test_credit_is_the_sum_of_its_lines(url: str, store: Store) -> None:
    run, other = RunId("run-1"), RunId("run-2")
    assert await store.credited(run) == {}
    for number, tokens in enumerate([{A: 10, B: 30}, {A: 25}, {}, {A: 1}]):
        await store.save(Change(credit=RoundCredit(run, number, tokens, 1000, 5.0)))
    await store.save(Change(credit=RoundCredit(other, 0, {A: 10**15}, 1000, 5.0)))
    assert await store.credited(run) == {A: 36, B: 30}
    assert await store.credited(other) == {A: 10**15}
    assert await sums_of_lines(url) == {(run, A): 36, (run, B): 30, (other, A): 10**15}


@pytest.mark.parametrize("second", [{A: 40}, {A: 10, B: 30}, {}])
async def test_a_round_that_is_committed_again_is_credited_once(
    url: str, store: Store, second: dict[WorkerId, int]
) -> None:
    """The answer to the first commit was lost, and the second may hold other work."""
    run = RunId("run-1")
    await store.save(Change(credit=RoundCredit(run, 0, {A: 10, B: 30}, 1000, 5.0)))
    for _ in range(2):
        await store.save(Change(credit=RoundCredit(run, 0, second, 1000, 5.0)))
        assert await store.credited(run) == second
        assert await sums_of_lines(url) == {(run, worker): tokens for worker, tokens in second.items()}


async def sums_of_lines(url: str) -> dict[tuple[str, str], int]:
    """Of the ledger, by run and worker."""
    lines = credit_lines.c
    query = sa.select(lines.run_id, lines.worker_id, sa.func.sum(lines.tokens)).group_by(lines.run_id, lines.worker_id)
    engine = sa.ext.asyncio.create_async_engine(url)
    async with engine.begin() as connection:
        rows = (await connection.execute(query)).all()
    await engine.dispose()
    return {(run_id, worker): int(tokens) for run_id, worker, tokens in rows}


async def test_clusters_steps_add_up(store: Store) -> None:
    await store.save(report(A, record(1, loss=1.0, tokens=30), epoch=1))
    await store.save(report(B, record(1, loss=4.0, tokens=10), record(2, tokens=10), epoch=2))
    first, second = await store.summaries(0, 10)
    assert (first.step, first.loss, first.tokens, first.tokens_per_s) == (1, 1.75, 80, 160.0)
    assert (second.step, second.loss, second.tokens) == (2, 2.0, 20)
    assert await store.tokens() == 100
    for epoch, loss in ((1, 2.0), (2, 4.0)):
        evaluation = EvaluationRecord(step=2, loss=loss, tokens=5)
        await store.save(Change(report=(A, MetricsReport(epoch=Epoch(epoch), evaluations=(evaluation,)))))
    assert [(e.step, e.loss, e.tokens) for e in await store.evaluations()] == [(2, 3.0, 5)]


async def test_rounds_are_kept(url: str, store: Store) -> None:
    table = Table(config_of(2), "ab")
    plans = [table.plan]
    for _ in range(3):
        table.whole_round()
        plans.append(table.plan)
    await store.save(Change(rounds=table.rounds, records=tuple(table.records), plans=tuple(plans)))
    newer = plans[3].model_copy(update={"revision": 1, "terms": (0, 1)})
    rooted = table.records[1].model_copy(update={"root": "0" * 64})
    await store.save(Change(plans=(newer,), records=(rooted,)))
    assert await store.records(0, 10) == [table.records[0], rooted, table.records[2]]
    assert await store.records(1, 1) == [rooted]
    assert await store.records(3, 10) == []
    assert await store.plans(2, 10) == [plans[2], newer]
    await store.save(Change(forget_rounds_before=2))
    assert await store.records(0, 10) == [table.records[2]]
    assert await store.plans(0, 10) == [plans[2], newer]
    again = SqlStore(Database(url))
    await again.open()
    assert (await again.load()).rounds == table.rounds
    await again.close()


async def test_clusters_are_kept_with_their_shape(url: str, store: Store) -> None:
    table = Table(config_of(4, size=2), "abcd")
    await store.save(Change(run=table.run))
    again = SqlStore(Database(url))
    await again.open()
    assert (await again.load()).run == table.run
    await again.close()


async def test_a_database_of_the_first_release_is_brought_up_to_date(url: str, make_worker: MakeWorker) -> None:
    engine = sa.ext.asyncio.create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda plain: command.upgrade(alembic_config(plain), "0001"))
    await engine.dispose()
    store = SqlStore(Database(url))
    await store.open()
    assert await store.records(0, 10) == []
    await store.save(Change(workers=(make_worker("a"),)))
    assert (await store.load()).rounds is None
    await store.close()


async def test_an_invite_has_as_many_uses_as_it_says(store: Store, database: Database) -> None:
    await InviteStore(database).add(StoredInvite("h", 2, expires_at=100.0))
    assert await store.use_invite("h", A, 1.0)
    assert not await store.use_invite("h", A, 2.0)  # the same worker asks again
    await store.use_invite("h", B, 3.0)
    with pytest.raises(InviteUsed):
        await store.use_invite("h", WorkerId("c" * 32), 4.0)
    await store.use_invite("h", B, 5.0)
    with pytest.raises(InviteExpired):
        await store.use_invite("h", A, 100.0)
    with pytest.raises(InviteInvalid, match="no such invite"):
        await store.use_invite("other", A, 1.0)


async def test_workers_that_come_at_once_share_an_invites_uses(
    store: Store, database: Database, make_worker: MakeWorker
) -> None:
    """Each reads before it writes, and the coordinator saves meanwhile."""
    await InviteStore(database).add(StoredInvite("h", 6, expires_at=100.0))
    uses = (store.use_invite("h", WorkerId(letter * 32), 1.0) for letter in "abcdefghij")
    saves = (store.save(Change(workers=(make_worker(letter),))) for letter in "abcdefghij")
    answers = await asyncio.gather(*uses, *saves, return_exceptions=True)
    assert [type(answer) for answer in answers[:10]].count(InviteUsed) == 4
    assert answers[:10].count(True) == 6
    assert answers[10:] == [None] * 10


async def test_migrations_lead_to_the_tables(url: str, store: Store) -> None:
    engine = sa.ext.asyncio.create_async_engine(url)
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda plain: compare_metadata(MigrationContext.configure(plain), metadata)
        )
    await engine.dispose()
    assert differences == []


async def test_a_database_of_a_newer_legion_is_refused(url: str, store: Store) -> None:
    engine = sa.ext.asyncio.create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    newer = SqlStore(Database(url))
    with pytest.raises(StorageFailed, match="schema 9999"):
        await newer.open()
    await newer.close()


async def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"not a database" * 100)
    store = SqlStore(Database(f"sqlite+aiosqlite:///{tmp_path / 'bad.db'}"))
    with pytest.raises(StorageFailed, match="not a database"):
        await store.open()
    await store.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql+nodriver://host/database", "oracle://host"])
def test_another_database_is_refused_by_name(url: str) -> None:
    with pytest.raises(Unusable, match="database URL") as caught:
        SqlStore(Database(url))
    assert "postgresql+psycopg://" in caught.value.hint


async def test_links_are_kept_replaced_and_dropped(store: Store) -> None:
    sample = Sample(1.5, "measured", 0.001, 1e6, None)
    broken = Sample(2.5, "no_bulk", 0.002)
    await store.save(Change(links={(A, B): (sample,), (B, A): (sample, broken), (A, SERVER): (sample,)}))
    assert (await store.load()).links == {(A, B): (sample,), (B, A): (sample, broken), (A, SERVER): (sample,)}
    await store.save(Change(links={(A, B): (sample, sample)}, dropped_links=((B, A), (B, SERVER))))
    assert (await store.load()).links == {(A, B): (sample, sample), (A, SERVER): (sample,)}
