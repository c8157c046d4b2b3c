"""Rounds over REST when workers go, stray and come back, and when the server itself does."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from round_workers import Bench, plan_of

from legion.messages import ModelShape, TensorShape, UnitShape
from legion.rounds import RootReport, RoundsPage
from legion_server.domain.rounds import PATIENCE
from legion_server.service.follower import Follower

Eventually = Callable[..., Awaitable[None]]
VOCABULARY, WIDTH = 257, 32
FORBIDDEN, CONFLICT = 403, 409
IN_ROUNDS: dict[str, Any] = {
    "cluster": {"policy": "solo"},
    "rounds": {"steps": 2, "checkpoint_every": 2, "deadline_s": 20.0, "grace_s": 1.0, "audit": 0.0},
    "steps": 8,
}
PAIRS = IN_ROUNDS | {"cluster": {"policy": "fixed", "size": 2}}


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    tensors = [("model.embed_tokens.weight", (VOCABULARY, WIDTH)), ("lm_head.weight", (VOCABULARY, WIDTH))]
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=s),)) for n, s in tensors))


async def follow(house: Any, members: list[Any]) -> list[dict[str, Any]]:
    """Everybody trains by its own plan."""
    replies = []
    for member in members:
        plan = await house.http.get("/training/plan", headers=member.headers)
        replies.append((await member.beat("training", epoch=plan.json()["epoch"])).json())
    return replies


async def events_of(house: Any) -> list[Any]:
    stream = house.backend.events.follow(0, private=True)
    return [await anext(stream) for _ in range(house.backend.events.last)]


async def root(member: Any, anchor: int, cluster: str, value: str, rank: int = 0) -> Any:
    body = RootReport.model_validate({"round": anchor, "cluster": cluster, "rank": rank, "root": value})
    reply = await member.http.post("/training/rounds/roots", json=body.model_dump(), headers=member.headers)
    return reply.json()["agrees"] if reply.status_code == 200 else reply.status_code


async def never(_: Follower) -> bool:
    return False


async def test_a_cluster_that_goes_takes_nothing_with_it_but_its_round(house: Any) -> None:
    members = await house.start(3, **IN_ROUNDS)
    bench = Bench(house, members)
    await follow(house, members)
    plan = await plan_of(house)
    gone = members[1]
    await house.http.delete(f"/workers/{gone.worker_id}", headers=gone.headers)
    reply = (await members[0].beat("training", epoch=1)).json()
    assert (reply["phase"], reply["round"], reply["revision"], reply["gone"]) == ("training", 0, 1, ["c2"])
    again = await plan_of(house, members[0])
    assert again.participants == plan.participants
    assert again.terms == (0, 1, 0)
    assert (await house.http.get("/training/rounds/plan", headers=gone.headers)).status_code == FORBIDDEN
    stale = bench.report_of(plan, 1)
    assert (await bench.report(plan, stale, gone)).status_code == CONFLICT
    for span in range(3):
        await bench.deliver(again, bench.report_of(again, span, again.term(span)))
    following = await plan_of(house)
    assert [p.cluster for p in following.participants] == ["c1", "c3"]
    lost = [event for event in await events_of(house) if event.type == "cluster_lost"]
    assert [(event.data["cluster"], event.data["worker_ids"]) for event in lost] == [("c2", [gone.worker_id])]
    assert "left" in lost[0].data["reason"]


async def test_who_comes_back_enters_with_the_next_round(house: Any, eventually: Eventually) -> None:
    members = await house.start(4, **PAIRS)
    bench = Bench(house, members)
    await follow(house, members)
    for _ in range(2):
        await bench.play()
    await eventually(lambda: 4 in house.backend.coordinator.state.checkpoints)
    await members[0].beat("training", epoch=1, lost_peer=members[1].worker_id, broken={"epoch": 1})
    beat = (await members[1].beat("training", epoch=1)).json()
    assert (beat["epoch"], beat["gone"]) == (0, ["c1"])
    for member in members[:2]:
        await member.beat("ready")
    plan = (await house.http.get("/training/plan", headers=members[0].headers)).json()
    assert (plan["cluster"], plan["epoch"], plan["round"], plan["first_step"]) == ("c3", 3, 3, 4)
    assert [p.cluster for p in (await plan_of(house)).participants] == ["c1", "c2"]


async def test_a_silent_reducer_is_passed_over(house: Any) -> None:
    members = await house.start(2, **IN_ROUNDS)
    bench = Bench(house, members)
    await follow(house, members)
    plan = await plan_of(house)
    await bench.deliver(plan, bench.report_of(plan, 0))
    await house.tick(20.0 * PATIENCE + 1.5)
    again = await plan_of(house)
    assert (again.terms, again.revision) == ((0, 1), 1)
    assert (await bench.report(again, bench.report_of(again, 1, 0))).status_code == CONFLICT
    await bench.deliver(again, bench.report_of(again, 1, 1))
    assert house.backend.coordinator.state.rounds.committed == 1
    terms = [event.data for event in await events_of(house) if event.type == "round_term"]
    assert [(t["round"], t["span"], t["term"]) for t in terms] == [(0, 1, 1)]


async def test_a_killed_server_comes_back_in_the_middle_of_a_round(
    settings: Any, clock: Any, open_house: Callable[..., Any], eventually: Eventually
) -> None:
    house, close = await open_house(settings, clock)
    members = await house.start(2, **IN_ROUNDS)
    bench = Bench(house, members)
    await follow(house, members)
    first = await bench.play()
    plan = await plan_of(house)
    assert (await bench.report(plan, bench.report_of(plan, 0))).status_code == 204
    before = house.backend.coordinator.state.rounds
    await close()
    clock.now += 3600
    house, close = await open_house(settings, clock)
    bench.house = house
    for member in members:
        member.http = house.http
    assert house.backend.coordinator.state.rounds.turns[0].report == before.turns[0].report
    await house.tick(20.0)  # nobody is silent or late: nobody could be heard
    assert (await plan_of(house)) == plan
    assert (await bench.report(first, bench.report_of(first, 1))).status_code == 204  # its answer was lost
    for span in (0, 1):  # the first again: its update is still to be delivered
        await bench.deliver(plan, bench.report_of(plan, span))
    await eventually(lambda: house.backend.coordinator.state.rounds.anchored == 2)
    rounds = house.backend.coordinator.state.rounds
    assert (rounds.committed, rounds.round_s) == (2, before.round_s)
    await close()


async def test_roots_are_compared_with_the_reference(house: Any, eventually: Eventually) -> None:
    members = await house.start(4, **PAIRS)
    bench = Bench(house, members)
    await follow(house, members)
    coordinator = house.backend.coordinator
    await eventually(lambda: coordinator.state.rounds.anchored == 0)
    plan = await bench.play(upload=False)
    shape, layout = house.shape, plan.participants[0].layout(house.shape)
    assert len(shape.sizes) == 2
    assert await root(members[0], 1, "c1", "0" * 64) is None  # remembered
    for span in range(len(plan.spans)):
        report = bench.report_of(plan, span)
        assert (await bench.put(bench.member(plan.spans[span].reducers[0]), report.digest)).status_code == 204
    await eventually(lambda: coordinator.state.rounds.counters.root_mismatches == 1)
    for rank, member in enumerate(members[:2]):
        right = house.backend.references.root(1, layout, rank)
        assert await root(member, 1, "c1", right, rank) is True
        assert right != coordinator.state.rounds.root  # it is the slice's
    assert await root(members[0], 1, "c1", "0" * 64) is False  # the same anchor counts once
    assert await root(members[2], 1, "c1", "0" * 64) == FORBIDDEN
    assert await root(members[2], 1, "c2", "0" * 64, 1) == FORBIDDEN
    assert coordinator.state.rounds.counters.root_mismatches == 1
    assert coordinator.state.workers[members[0].worker_id].state == "training"


async def test_who_strays_twice_in_a_day_is_excluded_and_told(house: Any, eventually: Eventually) -> None:
    members = await house.start(2, **IN_ROUNDS)
    bench = Bench(house, members)
    await follow(house, members)
    for number in range(2):
        await bench.play()
        await eventually(lambda: house.backend.coordinator.state.rounds.anchored == number + 1)  # noqa: B023
        assert (await members[1].beat("training", epoch=2)).status_code == 200
        assert await root(members[1], number + 1, "c2", "e" * 64) is False
    reply = await members[1].beat("training", epoch=2)
    assert (reply.status_code, reply.json()["slug"]) == (FORBIDDEN, "worker-revoked")
    assert "twice in a day its weights were not" in reply.json()["detail"]
    told = [event for event in await events_of(house) if event.type == "root_mismatch"]
    assert [event.data["round"] for event in told] == [1, 2]
    assert [plan.cluster for plan in house.backend.coordinator.run.clusters] == ["c1"]


async def test_resuming_keeps_the_log(house: Any, eventually: Eventually) -> None:
    members = await house.start(2, **IN_ROUNDS)
    bench = Bench(house, members)
    await follow(house, members)
    for _ in range(3):
        await bench.play()
    coordinator = house.backend.coordinator
    await eventually(lambda: coordinator.state.rounds.anchored == 3)
    assert (await house.admin.post("/runs/resume")).json()["phase"] == "waiting"
    assert coordinator.run.clusters == ()
    assert (await house.admin.get("/metrics")).json()["step"] == 6
    assert (await members[0].beat("training", epoch=1)).json()["epoch"] == 0
    for member in members:
        await member.beat("ready")
    plans = [(await house.http.get("/training/plan", headers=m.headers)).json() for m in members]
    assert [(p["cluster"], p["round"], p["first_step"]) for p in plans] == [("c3", 3, 4), ("c4", 3, 4)]
    page = RoundsPage.model_validate((await house.admin.get("/training/rounds?since=2")).json())
    assert [record.round for record in page.records] == [2]
    plan = await plan_of(house)
    assert (plan.round, plan.revision) == (3, 1)
    assert all(p.most_tokens > 0 for p in plan.participants)
    await bench.play()
    await eventually(lambda: coordinator.run.phase == "complete")
    assert (await house.admin.post("/runs/resume")).status_code == CONFLICT


async def test_a_run_that_lacks_only_its_assembly_resumes_without_workers(
    settings: Any, clock: Any, open_house: Callable[..., Any], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Follower, "step", never)
        house, close = await open_house(settings, clock)
        bench = Bench(house, await house.start(2, **IN_ROUNDS))
        for _ in range(4):
            await bench.play()
        assert house.backend.coordinator.run.phase == "finishing"
        assert (await house.admin.post("/runs/resume")).json()["phase"] == "finishing"
        await close()
    house, close = await open_house(settings, clock, resume=True)
    await eventually(lambda: house.backend.coordinator.run.phase == "complete")
    await close()
