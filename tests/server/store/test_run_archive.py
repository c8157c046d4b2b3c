"""From one run to the next: the archive of the old and the beginning of the new, on whatever database, as a whole."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from legion.config import RunConfig
from legion.ids import Epoch, RunId, WorkerId
from legion.messages import DatasetManifest
from legion.reports import EvaluationRecord, LossCurve, MetricsReport, TextSample
from legion.rounds import RoundRecord
from legion.runs import KeptCheckpoint
from legion_server.domain import checkpoints as cp
from legion_server.domain.archive import RunArchive, successor
from legion_server.domain.credit import RoundCredit
from legion_server.domain.happenings import Happening
from legion_server.domain.membership import Worker
from legion_server.domain.plan import make_plan
from legion_server.domain.runs import Run
from legion_server.store.api import Change, Dataset, Loaded, Numbered, Succession
from legion_server.store.database import Database
from legion_server.store.run_archive import RunArchives
from legion_server.store.run_queue import QueuedRun, RunQueue
from legion_server.store.sql import SqlStore
from tests.server.store.test_contract import record, report

SIGKILLED = -9
A = WorkerId("a" * 32)
OLD, NEW, LATER = RunId("run-old"), RunId("run-new"), RunId("run-later")
MANIFEST = DatasetManifest(
    fingerprint="0" * 64,
    kind="packed",
    token_bytes=2,
    vocab_size=257,
    seq_len=8,
    tokenizer_sha256="1" * 64,
    end_of_text=256,
)
DATASET = Dataset(MANIFEST, 3.0, None)
CURVE = LossCurve(run_id=OLD, width=1, training=(), validation=())
CHECKPOINT = KeptCheckpoint(step=4, weights_digest="f" * 64, files=("config.json",))
ARCHIVE = RunArchive(
    run_id=OLD,
    config=RunConfig(),
    phase="complete",
    failure=None,
    begun_at=1.0,
    ended_at=2.0,
    step=4,
    tokens=40,
    rounds=None,
    curve=CURVE,
    samples=(),
    contributions={A: 40},
    checkpoint=CHECKPOINT,
)
EVENT = Numbered(1, 7.25, Happening("phase", {"phase": "waiting"}))
NEXT = successor(Run(OLD, RunConfig(), "complete", Epoch(3)), NEW, RunConfig(steps=7))
CHANGE = Change(succession=Succession(ARCHIVE, NEW), run=NEXT, dataset=DATASET, events=(EVENT,))
SUCCEED = """
import asyncio, os, signal, sys
import sqlalchemy as sa
from legion_server.store.database import Database
from legion_server.store.sql import SqlStore
from tests.server.store.test_run_archive import CHANGE

left, url = 0, sys.argv[1]

def dies(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def succeed():
    database = Database(url)
    store = SqlStore(database)
    await store.open()
    for event in ("before_cursor_execute", "commit"):
        sa.event.listen(database._engine.sync_engine, event, dies)
    await store.save(CHANGE)
    await store.close()

for line in sys.stdin:  # one process for each: what it imports takes longer than what it does
    left = int(line)
    child = os.fork()
    if child == 0:
        asyncio.run(succeed())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def queued(run_id: RunId, steps: int = 7) -> QueuedRun:
    return QueuedRun(run_id, RunConfig(steps=steps), DATASET)


async def fill(database: Database, worker: Worker) -> Loaded:
    """Something of the old run in every table, and a queue of two."""
    store = SqlStore(database)
    plan = make_plan(OLD, RunConfig(), Epoch(3), 0, [worker])
    run = Run(OLD, RunConfig(), "complete", Epoch(3), plan, 0, 4)
    log = RoundRecord(
        run_id=OLD, round=0, spans=(), bounds=(), flush=False, tokens=40, total_tokens=40, committed_at=1.0
    )
    await store.save(
        Change(
            run=run,
            dataset=DATASET,
            workers=(worker,),
            checkpoints=(cp.begin(OLD, plan, 4, 40),),
            records=(log,),
            credit=RoundCredit(OLD, 0, {A: 40}, 1000, 1.0),
        )
    )
    told = MetricsReport(
        epoch=Epoch(3),
        steps=(record(1),),
        evaluations=(EvaluationRecord(step=1, loss=2.0, tokens=10),),
        samples=(TextSample(step=1, text="to be"),),
    )
    await store.save(Change(report=(A, told)))
    await store.save(report(A, record(2), epoch=3))
    await RunQueue(database).replace([queued(NEW), queued(LATER, 9)])
    return await store.load()


async def everything(database: Database) -> tuple[object, ...]:
    store, archives = SqlStore(database), RunArchives(database)
    return (
        await store.load(),
        await store.summaries(0, 10),
        await store.evaluations(),
        await store.samples(),
        await store.records(0, 10),
        await archives.newest(10),
        [run.run_id for run in await RunQueue(database).listed()],
    )


async def test_what_waits_is_kept_in_its_order(database: Database) -> None:
    queue = RunQueue(database)
    assert await queue.listed() == []
    both = [queued(NEW), queued(LATER, 9)]
    await queue.replace(both)
    assert await queue.listed() == both
    await queue.replace(both[::-1])
    assert await RunQueue(database).listed() == both[::-1]


async def test_archives_are_found_the_newest_first(database: Database) -> None:
    store, archives = SqlStore(database), RunArchives(database)
    assert await archives.get(OLD) is None
    later = replace(ARCHIVE, run_id=NEW, ended_at=3.0, phase="stopped", samples=(TextSample(step=1, text="x"),))
    for archive in (ARCHIVE, later):
        await store.save(Change(succession=Succession(archive, LATER)))
    assert await archives.newest(10) == [later, ARCHIVE]
    assert await archives.newest(1) == [later]
    assert await archives.get(OLD) == ARCHIVE


async def test_another_run_finds_nothing_of_the_one_before(
    database: Database, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker("a")
    await fill(database, worker)
    store = SqlStore(database)
    await store.save(CHANGE)
    loaded = await store.load()
    assert loaded == Loaded(NEXT, DATASET, (worker,), (), (EVENT,))
    assert await everything(database) == (loaded, [], [], [], [], [ARCHIVE], [LATER])
    assert (await store.totals(), await store.plans(0, 10)) == ([], [])
    # What it was credited stays.
    assert await store.credited(OLD) == {A: 40}
    # A save whose answer was lost is made again.
    await store.save(CHANGE)
    assert await everything(database) == (loaded, [], [], [], [], [ARCHIVE], [LATER])


async def test_a_server_that_is_killed_between_any_two_statements_has_one_run_whole(
    url: str, database: Database, make_worker: Callable[..., Worker]
) -> None:
    await fill(database, make_worker("a"))
    before = await everything(database)
    kills = 0
    with killed_at(url) as killed:
        while await asyncio.to_thread(killed, kills + 1) == SIGKILLED:
            kills += 1
            assert await everything(database) == before
    after = await everything(database)
    assert after[0] == replace(before[0], run=NEXT, checkpoints=(), events=(EVENT,))  # type: ignore[type-var]
    assert after[1:] == ([], [], [], [], [ARCHIVE], [LATER])
    assert kills >= 12, "each table, the archive, the new run, and the commit"


@contextmanager
def killed_at(url: str) -> Iterator[Callable[[int], int]]:
    """Tells of a process that is killed at its statement of this number how it ended."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SUCCEED, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as parent:

        def killed(statement: int) -> int:
            assert parent.stdin is not None
            assert parent.stdout is not None
            print(statement, file=parent.stdin, flush=True)
            return int(parent.stdout.readline())

        yield killed
