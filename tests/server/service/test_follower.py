"""The assembler follows the log: from updates to checkpoints, over restarts, kills and damage."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from round_workers import Bench, plan_of

from legion import digest
from legion.checkpoint.shards import read_info
from legion.config import RunConfig
from legion.layout import padded
from legion.messages import ModelShape, TensorShape, UnitShape
from legion.model.init import fill, theta_0
from legion.rounds import RoundRecord, RoundsPage
from legion_server.service import anchors
from legion_server.service.follower import Follower
from legion_server.store.api import Change

Eventually = Callable[..., Awaitable[None]]
VOCABULARY, WIDTH = 257, 32
IN_ROUNDS: dict[str, Any] = {
    "cluster": {"policy": "solo"},
    "rounds": {"steps": 2, "checkpoint_every": 2, "log_keep": 2},
    "steps": 9,
}
FOLLOW = """
import asyncio, os, sys, time
from legion_server.backend import opened
from legion_server.settings import Settings

left, folder = int(sys.argv[1]), sys.argv[2]

def count(event, arguments):
    global left
    writes = event in ("os.rename", "os.link", "os.remove", "os.truncate", "os.mkdir")
    writes |= event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wa")
    if writes and str(arguments[0]).startswith(folder):
        left -= 1
        if left == 0:
            os._exit(9)

async def follow():
    async with opened(Settings(data_dir=folder, host="127.0.0.1", port=8000), time.time) as backend:
        while backend.coordinator.run.phase != "complete":
            await asyncio.sleep(0.01)

sys.addaudithook(count)
asyncio.run(follow())
"""


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    tensors = [("model.embed_tokens.weight", (VOCABULARY, WIDTH)), ("lm_head.weight", (VOCABULARY, WIDTH))]
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=s),)) for n, s in tensors))


def initial(config: RunConfig, shape: ModelShape) -> np.ndarray:
    units = [np.empty(padded(unit.numel), np.float32) for unit in shape.units]
    for unit, values in zip(shape.units, units, strict=True):
        fill(values, unit, 0, theta_0(config))
    return np.concatenate(units)


async def never(_: Follower) -> bool:
    return False


async def log_of(house: Any, since: int = 0) -> list[RoundRecord]:
    return list(RoundsPage.model_validate((await house.admin.get(f"/training/rounds?since={since}")).json()).records)


def replayed(house: Any, bench: Bench, records: list[RoundRecord]) -> str:
    theta = initial(house.backend.coordinator.run.config, house.shape)
    for record in records:
        bench.applied(theta, record)
    return digest.root(digest.leaves(theta))


def store_blobs(folder: Path, blobs: dict[str, bytes]) -> None:
    (folder / "blobs").mkdir(exist_ok=True)
    for name, blob in blobs.items():
        (folder / "blobs" / name).write_bytes(blob)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.endswith((".part", ".partial")) or "updates/" in str(p)]


async def killed_again_and_again(folder: Path) -> int:
    """How many processes were killed, each a few writes later than the one before, until one came to the end."""
    for kills in range(200):
        command = [sys.executable, "-c", FOLLOW, str(3 + 4 * kills), str(folder)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return kills
        assert done.returncode == 9, done.stderr
    raise AssertionError("it never came to an end")


async def test_a_follower_survives_kills_between_any_two_writes(
    settings: Any, clock: Any, open_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Follower, "step", never)
        house, close = await open_house(settings, clock)
        bench = Bench(house, await house.start(2, **IN_ROUNDS | {"steps": 5}))
        for _ in range(3):
            await bench.play()
        assert house.backend.coordinator.run.phase == "finishing"
        records = await log_of(house)
        wanted = replayed(house, bench, records)
        await close()
    assert await killed_again_and_again(settings.data_dir) > 3
    house, close = await open_house(settings, clock)
    views = (await house.admin.get("/checkpoints")).json()
    assert [(view["step"], view["assembled"]) for view in views] == [(4, True), (5, True)]
    assert views[-1]["weights_digest"] == wanted
    assert (await log_of(house, 2))[0].root == wanted
    assert leftovers(settings.data_dir) == []
    await close()


async def test_what_nobody_needs_any_more_goes(house: Any, eventually: Eventually) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    for _ in range(4):
        await bench.play()
    state = house.backend.coordinator
    await eventually(lambda: state.state.rounds.first_record == 2)
    page = RoundsPage.model_validate((await house.admin.get("/training/rounds")).json())
    assert (page.first, [record.round for record in page.records]) == (2, [2, 3])
    assert [plan.round for plan in page.plans] == [2, 3, 4]
    named = {span.digest for record in page.records for span in record.spans}
    folder = house.backend.settings.data_dir / "blobs"
    await eventually(lambda: {path.name for path in folder.iterdir()} == named)
    newest = house.backend.settings.anchors_dir / "theta-00000004.safetensors"
    await eventually(lambda: list(newest.parent.glob("theta-*")) == [newest])
    info, _ = read_info(newest)
    assert (info.step, info.tokens) == (8, page.records[-1].total_tokens)


async def test_a_damaged_update_is_asked_for_again(house: Any, eventually: Eventually) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    plan = await plan_of(house)
    spoiled = bench.report_of(plan, 0).digest
    store_blobs(house.backend.settings.data_dir, {spoiled: b"x" * len(bench.blobs[spoiled])})
    await bench.play()
    coordinator = house.backend.coordinator
    await eventually(lambda: spoiled in coordinator.state.rounds.awaited)
    assert (coordinator.state.rounds.anchored, coordinator.state.rounds.counters.blobs_damaged) == (0, 1)
    assert (await bench.put(bench.members[1], spoiled)).status_code == 204
    await eventually(lambda: coordinator.state.rounds.anchored == 1)


async def test_what_is_lost_while_it_is_applied_is_asked_for(
    house: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    coordinator, advance = house.backend.coordinator, anchors.advance
    await eventually(lambda: coordinator.state.rounds.anchored == 0)
    digest = bench.report_of(await plan_of(house), 0).digest
    begun, go = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> list[bytes]:
        begun.set()
        go.wait()
        return advance(*arguments)

    monkeypatch.setattr(anchors, "advance", slow)
    await bench.play()
    await eventually(begun.is_set)
    (house.backend.settings.data_dir / "blobs" / digest).unlink()
    assert (await house.http.get(f"/blobs/{digest}", headers=bench.members[0].headers)).status_code == 404
    go.set()
    await eventually(lambda: coordinator.state.rounds.anchored == 1)
    assert list(coordinator.state.rounds.awaited) == [digest]


async def test_what_came_before_it_was_noted_as_missing_is_not_asked_for(
    house: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    coordinator, store, whole = house.backend.coordinator, house.backend.store, asyncio.Event()
    save = store.save
    spoiled = bench.report_of(await plan_of(house), 0).digest
    folder = house.backend.settings.data_dir
    store_blobs(folder, {spoiled: b"x" * len(bench.blobs[spoiled])})

    async def noting(change: Change) -> None:
        if change.rounds is not None and spoiled in change.rounds.awaited and not whole.is_set():
            store_blobs(folder, {spoiled: bench.blobs[spoiled]})
            whole.set()
        await save(change)

    monkeypatch.setattr(store, "save", noting)
    await bench.play()
    await eventually(lambda: coordinator.state.rounds.anchored == 1)
    assert whole.is_set()
    assert dict(coordinator.state.rounds.awaited) == {}


async def test_an_update_that_nobody_can_apply_ends_the_run(house: Any, eventually: Eventually) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    bench.nonsense = True
    await bench.play()
    await eventually(lambda: house.backend.coordinator.run.phase == "failed")
    public, private = (await house.http.get("/metrics")).json(), (await house.admin.get("/metrics")).json()
    assert "round 0 cannot be applied" in public["failure"]
    assert bench.members[0].worker_id in private["failure"]
    assert bench.members[0].worker_id not in public["failure"]


async def test_anchors_that_are_gone_come_back_from_a_checkpoint(
    settings: Any, clock: Any, open_house: Callable[..., Any], eventually: Eventually
) -> None:
    house, close = await open_house(settings, clock)
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    for _ in range(4):
        await bench.play()
    await eventually(lambda: 8 in house.backend.coordinator.state.checkpoints)
    records = await log_of(house)
    await close()
    for path in settings.anchors_dir.glob("theta-*"):
        path.unlink()
    house, close = await open_house(settings, clock)
    seat_again(bench, house)
    await bench.play()
    await eventually(lambda: house.backend.coordinator.run.phase == "complete")
    assert (await log_of(house, 4))[0].root is not None
    assert records[-1].round == 3
    await close()


def seat_again(bench: Bench, house: Any) -> None:
    """The same members, of a server that was started again."""
    bench.house = house
    for member in bench.members:
        member.http = house.http


async def test_an_anchor_that_changed_on_the_disk_is_no_reference(
    settings: Any, clock: Any, open_house: Callable[..., Any], eventually: Eventually
) -> None:
    """Workers would be blamed for it. It is counted, and made anew of the newest checkpoint."""
    house, close = await open_house(settings, clock)
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    for _ in range(3):
        await bench.play()
    await eventually(lambda: house.backend.coordinator.state.rounds.anchored == 3)
    records = await log_of(house, 1)
    await close()
    (path,) = settings.anchors_dir.glob("theta-*")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 6] ^= 1  # a weight: they come first
    path.write_bytes(damaged)
    house, close = await open_house(settings, clock)
    rounds = house.backend.coordinator.state.rounds
    await eventually(lambda: house.backend.coordinator.state.rounds.counters.replays_differ == 1)
    assert (await house.http.get("/metrics")).json()["rounds"]["counters"]["replays_differ"] == 1
    assert house.backend.coordinator.state.rounds.root == rounds.root
    assert not path.exists()
    await close()
    house, close = await open_house(settings, clock)
    await eventually(path.exists)
    seat_again(bench, house)
    await bench.play()
    await eventually(lambda: house.backend.coordinator.state.rounds.anchored == 4)
    assert (await log_of(house, 1))[: len(records)] == records
    assert house.backend.coordinator.state.rounds.counters.replays_differ == 1
    await close()


async def test_a_replay_that_ends_in_another_root_is_counted(
    settings: Any, clock: Any, open_house: Callable[..., Any], eventually: Eventually
) -> None:
    """As after an upgrade that rounds otherwise: the log keeps the root that its workers agreed with."""
    house, close = await open_house(settings, clock)
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    for _ in range(3):
        await bench.play()
    await eventually(lambda: house.backend.coordinator.state.rounds.anchored == 3)
    (record,) = await log_of(house, 2)
    async with house.backend.coordinator.deciding() as draft:
        draft.records.append(record.model_copy(update={"root": "0" * 64}))
    await close()
    for path in settings.anchors_dir.glob("theta-*"):
        path.unlink()
    house, close = await open_house(settings, clock)
    await eventually(lambda: house.backend.coordinator.state.rounds.counters.replays_differ == 1)
    assert (await log_of(house, 2))[0].root == "0" * 64
    await close()
