"""Which run `up --resume` goes on with: the newest that is not over, found in its own folder and nowhere else."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from legion.config import RunConfig
from legion.errors import NotFound
from legion.ids import Epoch, RunId
from legion.messages import RunPhase, SliceRef
from legion_server.domain import checkpoints as cp
from legion_server.domain.membership import Worker
from legion_server.domain.plan import make_plan
from legion_server.domain.runs import Run
from legion_server.store.api import Change
from legion_server.store.database import Database
from legion_server.store.sql import SqlStore
from legion_server.up.folder import RunFolder, new_run
from legion_server.up.resumable import newest_run

PastRun = Callable[..., Awaitable[RunFolder]]


@pytest.fixture
def past_run(tmp_path: Path, make_worker: Callable[..., Worker]) -> PastRun:
    """A run of an earlier `up`, left in a phase, with or without a complete checkpoint."""

    async def made(phase: RunPhase, *, saved: bool = True) -> RunFolder:
        folder = new_run(tmp_path)
        folder.server.mkdir()
        run = Run(RunId("run-1"), RunConfig(), phase)
        checkpoint = cp.begin(run.run_id, make_plan(run.run_id, run.config, Epoch(1), 0, [make_worker("a")]), 4, 100)
        if saved:
            checkpoint = cp.with_slice(checkpoint, SliceRef(rank=0, sha256="0" * 64, size_bytes=1), 100)
        store = SqlStore(Database(f"sqlite+aiosqlite:///{folder.server / 'legion.db'}"))
        await store.open()
        await store.save(Change(run=run, checkpoints=(checkpoint,)))
        await store.close()
        return folder

    return made


async def test_a_run_that_is_over_does_not_hide_an_older_one(tmp_path: Path, past_run: PastRun) -> None:
    await past_run("failed")
    killed = await past_run("training")
    await past_run("failed", saved=False)
    await past_run("complete")
    assert await newest_run(tmp_path) == killed


async def test_where_all_are_over_it_is_the_newest(tmp_path: Path, past_run: PastRun) -> None:
    await past_run("complete")
    newest = await past_run("complete")
    assert await newest_run(tmp_path) == newest


async def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path: Path, past_run: PastRun) -> None:
    await past_run("failed", saved=False)
    never_started = new_run(tmp_path)
    with pytest.raises(NotFound, match=r"no run in .* has a complete checkpoint"):
        await newest_run(tmp_path)
    assert list(never_started.root.iterdir()) == []


async def test_another_servers_database_is_left_alone(
    tmp_path: Path, past_run: PastRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = await past_run("failed")
    new_run(tmp_path)
    monkeypatch.setenv("LEGION_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'operators.db'}")
    assert await newest_run(tmp_path) == killed
    assert not (tmp_path / "operators.db").exists()
