"""Updates of rounds in storage, when they are damaged, lost and brought back while somebody reads."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from round_workers import Bench

from legion.messages import ModelShape, TensorShape, UnitShape
from legion.rounds import RoundPlan
from legion_server.service.updates import Updates
from legion_server.store.api import Change

Eventually = Callable[..., Awaitable[None]]
SOLO: dict[str, Any] = {"cluster": {"policy": "solo"}, "rounds": {"steps": 2, "checkpoint_every": 2}, "steps": 8}


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=(257, 32)),)) for n in names))


async def first_round(house: Any, eventually: Eventually) -> tuple[Bench, RoundPlan, str]:
    """Two workers, a round that is applied, and the digest of span 0's update."""
    bench = Bench(house, await house.start(2, **SOLO))
    plan = await bench.play()
    await eventually(lambda: house.backend.coordinator.state.rounds.anchored == 1)
    return bench, plan, bench.report_of(plan, 0).digest


async def test_a_slow_reader_of_a_damaged_update_leaves_the_one_that_was_brought_back(
    house: Any, eventually: Eventually
) -> None:
    bench, plan, digest = await first_round(house, eventually)
    path = house.backend.settings.data_dir / "blobs" / digest
    blob = path.read_bytes()
    path.write_bytes(bytes(len(blob)))
    updates = Updates(house.backend.round_log, house.backend.blobs)
    slow = updates.read(digest, len(blob), 0, len(blob))
    assert await anext(slow) == bytes(len(blob))
    assert (await house.http.get(f"/blobs/{digest}", headers=bench.members[0].headers)).content != blob
    assert not path.exists()
    assert (await bench.put(bench.member(plan.reducer(0)), digest)).status_code == 204
    assert [piece async for piece in slow] == []
    assert path.read_bytes() == blob
    rounds = house.backend.coordinator.state.rounds
    assert (rounds.counters.blobs_damaged, dict(rounds.awaited)) == (1, {})


async def test_what_came_while_it_was_noted_as_lost_is_given(
    house: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, _, digest = await first_round(house, eventually)
    path = house.backend.settings.data_dir / "blobs" / digest
    blob, save = path.read_bytes(), house.backend.store.save
    path.unlink()
    noted = []

    async def noting(change: Change) -> None:
        if change.rounds is not None and digest in change.rounds.awaited:
            noted.append(digest)
            path.write_bytes(blob)
        await save(change)

    monkeypatch.setattr(house.backend.store, "save", noting)
    assert (await house.http.get(f"/blobs/{digest}", headers=bench.members[0].headers)).content == blob
    assert (noted, dict(house.backend.coordinator.state.rounds.awaited)) == ([digest], {})
