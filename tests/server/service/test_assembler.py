"""A run's slices become a folder; only the newest are kept; a restarted server finishes what was begun."""

import asyncio
import hashlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from legion.checkpoint.shards import TENSORS, SliceInfo, header
from legion.errors import StorageFailed
from legion.ids import Epoch, Rank, RunId
from legion.layout import Layout
from legion.messages import ModelShape, TensorShape, UnitShape
from legion_server.backend import opened
from legion_server.service import assembler

VOCABULARY, WIDTH = 257, 32
Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    tensors = [("model.embed_tokens.weight", (VOCABULARY, WIDTH)), ("lm_head.weight", (VOCABULARY, WIDTH))]
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=s),)) for n, s in tensors))


def slice_of(house: Any, rank: int, world: int, step: int, epoch: int = 1) -> bytes:
    """As an engine writes it: weights and both moments, every element holding the step."""
    layout = Layout(house.shape.sizes, (1,) * world)
    owned = layout.owned(Rank(rank))
    info = SliceInfo(
        run_id=RunId(house.backend.coordinator.run.run_id),
        step=step,
        rank=Rank(rank),
        epoch=Epoch(epoch),
        tokens=step * 64,
    )
    return header(info, owned) + np.full(owned * len(TENSORS), step, np.float32).tobytes()


async def upload(house: Any, member: Any, rank: int, world: int, step: int, epoch: int = 1) -> None:
    content = slice_of(house, rank, world, step, epoch)
    headers = {
        "Legion-Sha256": hashlib.sha256(content).hexdigest(),
        "Legion-Tokens": str(step * 64),
        "Legion-Epoch": str(epoch),
    }
    url = f"/checkpoints/{step}/slices/{rank}"
    reply = await house.http.put(url, content=content, headers=member.headers | headers)
    assert reply.status_code == 204, reply.text


async def test_the_run_is_complete_with_its_last_checkpoint(house: Any, eventually: Eventually) -> None:
    members = await house.start(2, checkpoint={"every_steps": 2, "keep": 2})
    coordinator = house.backend.coordinator
    for step in (2, 4, 6, 8):
        for rank, member in enumerate(members):
            await upload(house, member, rank, 2, step)
        await eventually(lambda step=step: coordinator.state.checkpoints[step].assembled)
    assert coordinator.run.phase == "complete"
    views = (await house.admin.get("/checkpoints")).json()
    assert [(view["step"], view["complete"], view["assembled"]) for view in views] == [(6, True, True), (8, True, True)]
    settings = house.backend.settings
    kept = ["step-00000006", "step-00000008"]
    await eventually(lambda: sorted(path.name for path in settings.checkpoints_dir.iterdir()) == kept)
    slices = [f"{name}-epoch-1" for name in kept]
    await eventually(lambda: sorted(path.name for path in settings.slices_dir.iterdir()) == slices)
    weights = load_file(settings.checkpoints_dir / "step-00000008" / "model.safetensors")
    assert np.all(weights["lm_head.weight"] == 8)
    served = await house.http.get("/checkpoints/8/files/config.json", headers=members[0].headers)
    assert json.loads(served.content)["vocab_size"] == VOCABULARY
    assert "config.json" in views[1]["files"]
    assert len(views[1]["weights_digest"]) == 64
    # Leaving after the end is no loss.
    await house.http.delete(f"/workers/{members[0].worker_id}", headers=members[0].headers)
    assert coordinator.run.phase == "complete"


async def test_without_an_assembler_slices_are_enough(settings: Any, clock: Any, open_house: Any) -> None:
    house, close = await open_house(settings.model_copy(update={"assembler": False}), clock)
    (member,) = await house.start(1)
    await upload(house, member, 0, 1, 8)
    assert house.backend.coordinator.run.phase == "complete"
    assert not house.backend.settings.checkpoints_dir.exists()
    await close()


async def test_a_restarted_server_assembles_what_it_had_received(
    settings: Any, clock: Any, open_house: Any, eventually: Eventually
) -> None:
    house, close = await open_house(settings.model_copy(update={"assembler": False}), clock)
    (member,) = await house.start(1)
    await upload(house, member, 0, 1, 4)
    await close()
    house, close = await open_house(settings, clock)
    await eventually(lambda: house.backend.coordinator.state.checkpoints[4].assembled)
    await close()


@asynccontextmanager
async def refusing(house: Any, table: str, text: str) -> AsyncIterator[None]:
    """SQLite takes no row of `table` whose document has `text` in it, as if the disk were full."""

    def execute(statement: str) -> None:
        with closing(sqlite3.connect(house.backend.settings.data_dir / "legion.db")) as database:
            database.execute(statement)
            database.commit()

    when = f"WHEN NEW.document LIKE '%{text}%'"
    refuse = "SELECT RAISE(ABORT, 'database or disk is full');"
    # In a thread: the server may be in the midst of a transaction, which only the event loop can end.
    await asyncio.to_thread(execute, f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} {when} BEGIN {refuse} END")
    yield
    await asyncio.to_thread(execute, "DROP TRIGGER full_disk")


@pytest.mark.parametrize(
    ("table", "text", "end"),
    [("checkpoints", '"assembled":true', "complete"), ("runs", '"phase":"failed"', "failed")],
)
async def test_a_disk_too_full_to_record_a_checkpoint_does_not_end_the_server(
    house: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    table: str,
    text: str,
    end: str,
) -> None:
    monkeypatch.setattr(assembler, "RETRY_S", 0.01)
    (member,) = await house.start(1)
    if end == "failed":
        house.backend.settings.checkpoints_dir.write_text("a file where folders should go")
    async with refusing(house, table, text):
        await upload(house, member, 0, 1, 8)
        await eventually(lambda: caplog.text.count("checkpoint not recorded") > 1)
        assert house.backend.coordinator.run.phase == "finishing"
        assert (await house.http.get("/health")).status_code == 200
    await eventually(lambda: house.backend.coordinator.run.phase == end)
    told = [record for record in caplog.records if "not recorded" in record.message]
    assert all(record.levelno == logging.ERROR and record.exc_info is None for record in told)
    assert "database or disk is full" in told[0].message


async def test_a_tick_that_cannot_be_saved_is_one_line(
    house: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    await house.start(1)
    async with refusing(house, "workers", '"offline"'):
        house.clock.now += 100
        await eventually(lambda: "tick failed" in caplog.text)
    (told, *_) = [record for record in caplog.records if "tick failed" in record.message]
    assert told.exc_info is None
    assert "database or disk is full" in told.message
    await eventually(lambda: house.backend.coordinator.run.phase == "failed")


async def test_an_error_of_the_serving_server_comes_out_as_it_is(settings: Any, clock: Any) -> None:
    with pytest.raises(StorageFailed, match="no room"):
        async with opened(settings, clock):
            raise StorageFailed("no room")


@pytest.mark.parametrize("assembling", [True, False])
async def test_a_run_killed_before_its_last_checkpoint_was_assembled_is_completed_without_workers(
    settings: Any,
    clock: Any,
    open_house: Any,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    assembling: bool,
) -> None:
    house, close = await open_house(settings, clock)
    members = await house.start(2)
    async with refusing(house, "checkpoints", '"assembled":true'):
        for rank, member in enumerate(members):
            await upload(house, member, rank, 2, 8)
        await eventually(lambda: "checkpoint not recorded" in caplog.text)
        await close()
    house, close = await open_house(settings.model_copy(update={"assembler": assembling}), clock, resume=True)
    await eventually(lambda: house.backend.coordinator.run.phase == "complete")
    run = house.backend.coordinator.run
    assert (run.step, run.plan, run.failure) == (8, None, None)
    (view,) = (await house.admin.get("/checkpoints")).json()
    assert (view["step"], view["complete"], view["assembled"]) == (8, True, assembling)
    if assembling:
        weights = await house.admin.get("/checkpoints/8/files/model.safetensors")
        assert np.all(load(weights.content)["lm_head.weight"] == 8)
    await close()


async def test_resuming_gives_the_assembler_another_try(house: Any, eventually: Eventually) -> None:
    (member,) = await house.start(1)
    coordinator, in_the_way = house.backend.coordinator, house.backend.settings.checkpoints_dir
    in_the_way.write_text("a file where folders should go")
    await upload(house, member, 0, 1, 8)
    await eventually(lambda: coordinator.run.phase == "failed")
    assert (await house.admin.post("/runs/resume", json={"workers": 3})).json()["phase"] == "finishing"
    # Nobody is a member of what remains to be done.
    assert (await member.beat("ready")).json()["epoch"] == 0
    await eventually(lambda: coordinator.run.phase == "failed")
    in_the_way.unlink()
    await house.admin.post("/runs/resume")
    await eventually(lambda: coordinator.run.phase == "complete")
    assert (await house.admin.get("/checkpoints/8/files/config.json")).status_code == 200
