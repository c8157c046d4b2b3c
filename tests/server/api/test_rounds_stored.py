"""What is stored of rounds is what callers see, also after the database failed in the worst moment."""

from typing import Any

import pytest
from round_workers import Bench, plan_of

from legion.errors import Unavailable
from legion_server.service import round_log
from legion_server.store.api import Change
from legion_server.store.database import Database
from legion_server.store.sql import SqlStore

SOLO: dict[str, Any] = {
    "cluster": {"policy": "solo"},
    "rounds": {"steps": 2, "checkpoint_every": 2, "deadline_s": 20.0, "grace_s": 1.0},
    "steps": 8,
}


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_decision_that_may_or_may_not_be_stored_leaves_nothing_behind(
    house: Any, monkeypatch: pytest.MonkeyPatch, *, is_stored: bool
) -> None:
    """As when the connection to a database is lost while it commits: its caller sees an error, and tries again."""
    bench = Bench(house, await house.start(2, **SOLO))
    store, save = house.backend.store, house.backend.store.save
    for member, epoch in zip(bench.members, (1, 2), strict=True):
        await member.beat("training", epoch=epoch)
    plan = await plan_of(house)

    async def cut_off(change: Change) -> None:
        if is_stored:
            await save(change)
        raise Unavailable("the connection is gone")

    with monkeypatch.context() as patched:
        patched.setattr(store, "save", cut_off)
        assert (await bench.report(plan, bench.report_of(plan, 0))).status_code == Unavailable.status
        await bench.members[0].beat("leaving", epoch=1)  # with events
    assert house.backend.coordinator.state.rounds.turns[0].report is None
    await house.tick(26.5)  # the span is the next reducer's: the report is of no use any more
    assert (await plan_of(house)).terms == (1, 1)
    again = SqlStore(Database(house.backend.settings.database))
    await again.open()
    loaded = await again.load()
    await again.close()
    assert loaded.rounds == house.backend.coordinator.state.rounds
    assert loaded.run == house.backend.coordinator.run
    assert {w.worker_id: w.state for w in loaded.workers} == {
        w.worker_id: w.state for w in house.backend.coordinator.state.workers.values()
    }
    assert [event.number for event in loaded.events] == list(range(1, house.backend.events.last + 1))


async def test_a_commit_that_may_be_stored_is_in_no_page_of_the_log(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its round goes on, and may end with other updates."""
    bench = Bench(house, await house.start(2, **SOLO))
    plan = await plan_of(house)
    await bench.deliver(plan, bench.report_of(plan, 0))
    last = bench.report_of(plan, 1)
    assert (await bench.report(plan, last)).status_code == 204
    save = house.backend.store.save

    async def cut_off(change: Change) -> None:
        await save(change)
        raise Unavailable("the connection is gone")

    with monkeypatch.context() as patched:
        patched.setattr(house.backend.store, "save", cut_off)
        assert (await bench.put(bench.member(plan.reducer(1)), last.digest)).status_code == Unavailable.status
    assert [record.round for record in await house.backend.store.records(0, 10)] == [0]
    assert (await house.admin.get("/training/rounds")).json()["records"] == []
    assert await house.backend.round_log.record(0) is None
    assert (await bench.put(bench.member(plan.reducer(1)), last.digest)).status_code == 204
    assert [record["round"] for record in (await house.admin.get("/training/rounds")).json()["records"]] == [0]


async def test_a_page_of_large_records_has_fewer(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(house, await house.start(2, **SOLO | {"steps": 20}))
    for _ in range(7):
        await bench.play()
    monkeypatch.setattr(round_log, "ENOUGH", 5)  # four inclusions in each
    found, since = [], 0
    while records := (await house.admin.get(f"/training/rounds?since={since}")).json()["records"]:
        found.append([record["round"] for record in records])
        since = found[-1][-1] + 1
    assert found == [[0, 1, 2, 3], [4, 5, 6]]
