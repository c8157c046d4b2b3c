"""Checkpoints that are damaged on the server's disk: who follows the log, and who joins, gets a whole one."""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from round_workers import Bench

from legion.messages import ModelShape, TensorShape, UnitShape
from legion_server.domain.checkpoints import Checkpoint
from legion_server.service import follower
from legion_server.service.assembler import Assembler
from legion_server.service.follower import Follower

Eventually = Callable[..., Awaitable[None]]
OpenHouse = Callable[..., Any]


def in_rounds(log_keep: int) -> dict[str, Any]:
    """Five rounds; checkpoints after the second, the fourth and the last."""
    rounds = {"steps": 2, "checkpoint_every": 2, "log_keep": log_keep}
    return {"cluster": {"policy": "solo"}, "rounds": rounds, "steps": 9}


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=(257, 32)),)) for n in names))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.0)
    monkeypatch.setattr(follower, "LOOK_S", 0.0)


async def played(house: Any, eventually: Eventually, rounds: int, log_keep: int) -> Bench:
    """So many rounds, all applied, and what they make superfluous deleted."""
    bench = Bench(house, await house.start(2, **in_rounds(log_keep)))
    for _ in range(rounds):
        await bench.play()
    newest = rounds - rounds % 2
    state = house.backend.coordinator
    await eventually(lambda: state.state.rounds.anchored == rounds and 2 * newest in state.state.checkpoints)
    # More go if a round was committed between its checkpoint and the pruning after that.
    await eventually(lambda: state.state.rounds.first_record >= newest - log_keep)
    await eventually(lambda: all(checkpoint.assembled for checkpoint in state.state.checkpoints.values()))
    return bench


def seat_again(bench: Bench, house: Any) -> None:
    """The same members, of a server that was started again."""
    bench.house = house
    for member in bench.members:
        member.http = house.http


def slice_of(house: Any, step: int) -> Path:
    checkpoint = house.backend.coordinator.state.checkpoints[step]
    (ref,) = checkpoint.manifest.slices
    return house.backend.files.slice(checkpoint, ref.rank, ref.sha256)


def spoil(path: Path, *, apart: bool = False) -> bytes:
    """Another weight in the file, and in all that are the same file unless `apart`; what it was before."""
    before = path.read_bytes()
    if apart:
        path.unlink()
        path.write_bytes(before)
    with path.open("r+b") as file:
        file.seek(len(before) // 6)  # a weight: they come first
        file.write(bytes([before[len(before) // 6] ^ 1]))
    return before


async def is_given(house: Any, step: int) -> bool:
    """Whether who joins gets the slice that the manifest names."""
    manifest = (await house.admin.get(f"/checkpoints/{step}")).json()
    reply = await house.admin.get(f"/checkpoints/{step}/slices/0")
    return hashlib.sha256(reply.content).hexdigest() == manifest["slices"][0]["sha256"]


async def test_an_anchor_that_is_damaged_with_its_checkpoint_is_made_of_an_older_one(
    settings: Any, clock: Any, open_house: OpenHouse, eventually: Eventually
) -> None:
    house, close = await open_house(settings, clock)
    bench = await played(house, eventually, 4, log_keep=2)
    (anchor,) = settings.anchors_dir.glob("theta-*")
    assert slice_of(house, 8).samefile(anchor)
    await close()
    whole = spoil(anchor)
    house, close = await open_house(settings, clock)
    state = house.backend.coordinator
    await eventually(lambda: state.state.rounds.counters.checkpoints_damaged == 1)
    await eventually(lambda: 8 in state.state.checkpoints and slice_of(house, 8).read_bytes() == whole)
    assert await is_given(house, 4)
    assert await is_given(house, 8)
    seat_again(bench, house)
    await bench.play()
    await eventually(lambda: state.run.phase == "complete")
    assert state.state.rounds.counters.replays_differ == 1
    assert (await house.http.get("/metrics")).json()["rounds"]["counters"]["checkpoints_damaged"] == 1
    await close()


async def test_without_a_whole_checkpoint_it_is_said_once_and_a_backup_helps(
    settings: Any,
    clock: Any,
    open_house: OpenHouse,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house, close = await open_house(settings, clock)
    bench = await played(house, eventually, 4, log_keep=1)
    kept = slice_of(house, 8)
    await close()
    (anchor,) = settings.anchors_dir.glob("theta-*")
    whole = spoil(anchor)
    looked = 0

    async def step(self: Follower) -> bool:
        nonlocal looked
        looked += 1
        return await do(self)

    do = Follower.step
    monkeypatch.setattr(Follower, "step", step)
    with caplog.at_level(logging.ERROR):
        house, close = await open_house(settings, clock)
        state = house.backend.coordinator
        await eventually(lambda: "is whole" in caplog.text)
        seat_again(bench, house)
        await bench.play()  # training goes on
        before = looked
        await eventually(lambda: looked > before + 20)
    assert sum("neither an anchor nor a checkpoint since is whole" in r.getMessage() for r in caplog.records) == 1
    assert state.state.rounds.counters.checkpoints_damaged == 1
    assert not await is_given(house, 8)
    kept.unlink()
    kept.write_bytes(whole)
    await eventually(lambda: state.run.phase == "complete")
    assert await is_given(house, 8)
    await close()


async def test_a_damaged_checkpoint_is_replaced_by_one_of_the_anchor(
    settings: Any, clock: Any, open_house: OpenHouse, eventually: Eventually
) -> None:
    """The log no longer leads from an older one to where the run is: whoever joined would be lost."""
    house, close = await open_house(settings, clock)
    await played(house, eventually, 3, log_keep=1)
    spoil(slice_of(house, 4), apart=True)
    await close()
    house, close = await open_house(settings, clock)
    state = house.backend.coordinator
    await eventually(lambda: list(state.state.checkpoints) == [6])
    assert await is_given(house, 6)
    assert state.state.rounds.counters.checkpoints_damaged == 1
    assert state.state.rounds.counters.replays_differ == 0
    await close()


async def test_a_checkpoint_that_strays_from_the_log_is_passed_over(
    settings: Any, clock: Any, open_house: OpenHouse, eventually: Eventually
) -> None:
    """Damaged before it was hashed: its file is what its manifest says, and still not the log's."""
    house, close = await open_house(settings, clock)
    await played(house, eventually, 4, log_keep=2)
    checkpoint = house.backend.coordinator.state.checkpoints[8]
    whole = spoil(slice_of(house, 8))
    sha256 = hashlib.sha256(slice_of(house, 8).read_bytes()).hexdigest()
    ref = checkpoint.manifest.slices[0].model_copy(update={"sha256": sha256})
    strayed = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"slices": (ref,)}))
    slice_of(house, 8).rename(house.backend.files.slice(strayed, ref.rank, sha256))
    async with house.backend.coordinator.deciding() as draft:
        draft.checkpoints[8] = strayed
    await close()
    house, close = await open_house(settings, clock)
    state = house.backend.coordinator
    await eventually(lambda: state.state.rounds.counters.checkpoints_damaged == 1)
    await eventually(lambda: 8 in state.state.checkpoints and slice_of(house, 8).read_bytes() == whole)
    assert state.state.rounds.counters.replays_differ == 2  # the anchor's, and the checkpoint's
    await close()


@pytest.mark.parametrize("step", [8, 9])
async def test_a_slice_that_is_damaged_before_it_is_assembled_is_made_anew(
    house: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Nobody is given a folder of damaged weights, and the run is not lost with its last checkpoint."""
    joined, times = Assembler._joined, 0

    def spoiled(self: Assembler, checkpoint: Checkpoint) -> Any:
        nonlocal times
        times += checkpoint.step == step
        if checkpoint.step == step and times == 1:
            spoil(slice_of(house, step), apart=True)
        return joined(self, checkpoint)

    monkeypatch.setattr(Assembler, "_joined", spoiled)
    state = house.backend.coordinator
    bench = Bench(house, await house.start(2, **in_rounds(2)))
    for _ in range(5 if step == 9 else 4):
        await bench.play()
    await eventually(lambda: step in state.state.checkpoints and state.state.checkpoints[step].assembled)
    assert times == 2
    assert await is_given(house, step)
    record = await house.backend.round_log.record(step // 2 if step == 9 else 3)
    assert state.state.checkpoints[step].weights_digest == record.root
    assert state.state.rounds.counters.checkpoints_damaged == 1
    assert state.run.phase == ("complete" if step == 9 else "training")
