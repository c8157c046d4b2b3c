"""What must not pass silently in rounds, from where it happens to GET /metrics, as JSON and for Prometheus."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from round_workers import Bench, plan_of

from legion.codec.api import AnyCodec
from legion.codec.registry import by_name
from legion.counters import RoundCounters
from legion.errors import PartInvalid, PartRefused
from legion.ids import ClusterId, Rank, WorkerId
from legion.messages import ModelShape, TensorShape, UnitShape
from legion.outer.reducer import Closing, SpanReducer, codecs_of
from legion.outer.tally import Tally
from legion.rounds import Blocks, Participant, PartKey, RootReport, RoundPlan, SpanReport
from legion_server.domain.rounds import PATIENCE
from legion_server.domain.span_reports import MOST_REFUSED
from legion_server.service.blobs import Blobs

Eventually = Callable[..., Awaitable[None]]
Part = tuple[WorkerId, PartKey, bytes]
TAKEN, CONFLICT, MISSING, NO_ROOM = 204, 409, 404, 507
SOLO: dict[str, Any] = {
    "cluster": {"policy": "solo"},
    "rounds": {"steps": 2, "checkpoint_every": 2, "deadline_s": 20.0, "grace_s": 1.0, "audit": 0.0},
    "steps": 8,
}
PAIRS = SOLO | {"cluster": {"policy": "fixed", "size": 2}}
NONE, INT4 = by_name("none"), by_name("int4")


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=(257, 32)),)) for n in names))


async def counted(house: Any) -> dict[str, Any]:
    """The counters that are not zero; both forms say the same."""
    view = (await house.http.get("/metrics")).json()["rounds"]["counters"]
    text = (await house.http.get("/metrics", headers={"Accept": "text/plain"})).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    refused = {s.labels["reason"]: s.value for s in samples if s.name == "legion_rounds_refused"}
    assert refused == view["refused"]
    plain = {s.name.removeprefix("legion_rounds_"): s.value for s in samples if not s.labels}
    assert {name: plain[name] for name in view if name != "refused"} == {
        name: value for name, value in view.items() if name != "refused"
    }
    return {name: value for name, value in view.items() if value}


def test_every_counter_is_explained() -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in RoundCounters.model_fields if f"`{name}`" not in text] == []


# Parts that a reducer turns away: a real one, of the server's plan.


def reducer_of(plan: RoundPlan, tally: Tally | None = None) -> SpanReducer:
    """Of span 0."""
    closing = Closing(quorum=0.6, grace_s=1.0)
    codecs = codecs_of("int4", 1 / 64, flush=False) | {NONE.wire_id}  # the latter can carry NaN
    return SpanReducer(plan, 0, 0, closing=closing, mean_over="participants", opened_s=0.0, codecs=codecs, tally=tally)


def part_of(
    plan: RoundPlan, participant: Participant, rank: int, codec: AnyCodec = INT4, fill: float = 1.0, **changes: Any
) -> Part:
    """A good part of span 0, but for the changes."""
    fragments = participant.layout(plan.shape).fragments(Rank(rank), plan.spans[0].bounds)
    values = np.full(sum(len(fragment.flat) for fragment in fragments), fill, np.float32)
    data = bytes(codec.encode(values))
    body: dict[str, Any] = {
        "run_id": plan.run_id,
        "round": plan.round,
        "span": 0,
        "cluster": participant.cluster,
        "rank": rank,
        "codec": codec.wire_id,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "steps": 2,
        "tokens": 16,
        "blocks": (Blocks(start=participant.blocks.start, stop=participant.blocks.start + 1),),
    }
    return participant.members[rank].worker_id, PartKey.model_validate(body | changes), data


def holders(plan: RoundPlan, participant: Participant) -> list[int]:
    """Ranks whose slices meet span 0."""
    layout = participant.layout(plan.shape)
    return [rank for rank in layout.ranks if layout.fragments(rank, plan.spans[0].bounds)]


BAD: dict[str, Callable[[RoundPlan, Participant, int], Part]] = {
    "round": lambda plan, cluster, rank: part_of(plan, cluster, rank, round=plan.round + 1),
    "span": lambda plan, cluster, rank: part_of(plan, cluster, rank, span=1),
    "digest": lambda plan, cluster, rank: part_of(plan, cluster, rank, size_bytes=7),
    "invalid": lambda plan, cluster, rank: part_of(plan, cluster, rank, size_bytes=10**6),
    "codec": lambda plan, cluster, rank: part_of(plan, cluster, rank, by_name("bf16")),
    "not-finite": lambda plan, cluster, rank: part_of(plan, cluster, rank, NONE, np.nan),
    "stranger": lambda plan, cluster, rank: part_of(plan, cluster, rank, cluster=ClusterId("c77")),
    "lease": lambda plan, cluster, rank: part_of(plan, cluster, rank, blocks=(Blocks(start=10**6, stop=10**6 + 1),)),
}


async def reported(house: Any, bench: Bench, plan: RoundPlan, made: tuple[bytes, SpanReport, Any]) -> None:
    blob, report, _ = made
    bench.blobs[report.digest] = blob
    await bench.deliver(plan, report)


@pytest.mark.parametrize("reason", BAD)
async def test_a_part_that_is_turned_away(house: Any, reason: str) -> None:
    bench = Bench(house, await house.start(4, **PAIRS))
    plan = await plan_of(house)
    reducer, cluster = reducer_of(plan), plan.participants[0]
    rank = holders(plan, cluster)[0]
    for _ in range(2):
        with pytest.raises((PartRefused, PartInvalid)):
            reducer.offer(*BAD[reason](plan, cluster, rank))
    await reported(house, bench, plan, reducer.reduce(None, INT4))
    assert (await counted(house))["refused"] == {reason: 2}


async def test_a_contribution_that_stays_incomplete(house: Any) -> None:
    """Span 0 of two, so that both members of a cluster hold some of it."""
    bench = Bench(house, await house.start(4, **PAIRS))
    plan = await plan_of(house)
    whole, part = plan.participants
    layout = part.layout(plan.shape)
    (span, ranks) = next(
        (number, met)
        for number, found in enumerate(plan.spans)
        if len(met := [rank for rank in layout.ranks if layout.fragments(rank, found.bounds)]) == 2
    )
    alone = plan.model_copy(update={"spans": (plan.spans[span], *plan.spans[1:])})
    reducer = reducer_of(alone)
    for rank in ranks:
        reducer.offer(*part_of(alone, whole, rank))
    reducer.offer(*part_of(alone, part, ranks[0]))
    blob, report, dropped = reducer.reduce(None, INT4)
    assert [inclusion.cluster for inclusion in report.included] == [whole.cluster]
    await reported(house, bench, plan, (blob, report.model_copy(update={"span": span}), dropped))
    found = await counted(house)
    assert found["refused"] == {"incomplete": 1}
    assert found["below_quorum"] == 1


async def test_a_late_part_is_told_with_the_next_anchor(house: Any, eventually: Eventually) -> None:
    """The report of its span was made before it came."""
    bench = Bench(house, await house.start(2, **SOLO))
    plan = await plan_of(house)
    tally = Tally()
    reducer = reducer_of(plan, tally)
    first, second = plan.participants
    reducer.offer(*part_of(plan, first, 0))
    await reported(house, bench, plan, reducer.reduce(None, INT4))
    with pytest.raises(PartRefused, match="closed"):
        reducer.offer(*part_of(plan, second, 0))
    await bench.deliver(plan, bench.report_of(plan, 1))
    await eventually(lambda: house.backend.coordinator.state.rounds.anchored == 1)
    member = bench.member(plan.reducer(0))
    cluster = next(p.cluster for p in plan.participants if p.members[0].worker_id == member.worker_id)
    for _ in range(3):
        tally.damaged()
    told = tally.told_with(RootReport(round=1, cluster=cluster, rank=0, root="0" * 64))
    for _ in range(2):  # its answer may be lost
        assert (await report_root(house, member, told)).status_code == 200
    found = await counted(house)
    assert (found["refused"], found["updates_damaged"]) == ({"late": 1}, 3)


async def report_root(house: Any, member: Any, report: RootReport) -> Any:
    body = report.model_dump(mode="json")
    return await house.http.post("/training/rounds/roots", json=body, headers=member.headers)


async def test_nobody_drowns_the_counts_of_others(house: Any) -> None:
    bench = Bench(house, await house.start(2, **SOLO))
    plan = await plan_of(house)
    claims = {"late": 10**400, "lease": -5} | {f"reason {i}": 1 for i in range(100)}
    assert (await bench.report(plan, bench.report_of(plan, 0, refused=claims))).status_code == TAKEN
    refused = (await counted(house))["refused"]
    assert (refused["late"], refused["lease"]) == (MOST_REFUSED, 0)
    assert len(refused) <= 33
    assert house.backend.coordinator.state.rounds.turns[0].report.refused == {}
    assert refused["other"] > 0


# Reducers.


async def test_a_stale_term_a_second_digest_and_one_that_nobody_can_fetch(house: Any) -> None:
    bench = Bench(house, await house.start(2, **SOLO))
    plan = await plan_of(house)
    for member in bench.members:
        own = await house.http.get("/training/plan", headers=member.headers)
        await member.beat("training", epoch=own.json()["epoch"])
    first, second = bench.report_of(plan, 0), bench.report_of(plan, 1)
    await bench.deliver(plan, second)
    assert (await bench.report(plan, first)).status_code == TAKEN  # and never uploads it
    other = first.model_copy(update={"digest": "f" * 64})
    assert (await bench.report(plan, other)).json()["slug"] == "round-conflict"
    found = await counted(house)
    assert (found["digests_differ"], found.get("conflicts"), found.get("undelivered")) == (1, None, None)
    await house.tick(20.0 * PATIENCE + 1.5)
    assert (await plan_of(house)).terms == (1, 0)
    assert (await counted(house))["undelivered"] == 1
    assert (await bench.report(plan, first)).status_code == CONFLICT
    assert (await counted(house))["conflicts"] == 1


# Updates in storage.


async def wanted_of(bench: Bench, number: int) -> list[str]:
    member = bench.members[number]
    own = await member.http.get("/training/plan", headers=member.headers)
    return list((await member.beat("training", epoch=own.json()["epoch"])).json()["wanted"])


async def first_round(house: Any, eventually: Eventually) -> tuple[Bench, RoundPlan, str]:
    """Two workers, a round that is applied, and the digest of span 0's update."""
    bench = Bench(house, await house.start(2, **SOLO))
    plan = await bench.play()
    await eventually(lambda: house.backend.coordinator.state.rounds.anchored == 1)
    return bench, plan, bench.report_of(plan, 0).digest


@pytest.mark.parametrize("how", ["gone", "damaged", "cut"])
async def test_a_stored_update_that_is_lost_is_asked_for_again(house: Any, eventually: Eventually, how: str) -> None:
    bench, plan, digest = await first_round(house, eventually)
    reducer = bench.members.index(bench.member(plan.reducer(0)))
    path = house.backend.settings.data_dir / "blobs" / digest
    assert await wanted_of(bench, reducer) == []
    blob = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(b"\0" * len(blob) if how == "damaged" else blob[:-1])
        whole = await house.http.get(f"/blobs/{digest}", headers=bench.members[0].headers)
        assert whole.content != blob
    assert (await house.http.get(f"/blobs/{digest}", headers=bench.members[0].headers)).status_code == MISSING
    found = await counted(house)
    assert (found.get("blobs_damaged", 0), found["blobs_missing"]) == (int(how != "gone"), 1)
    assert await wanted_of(bench, reducer) == [digest]
    assert await wanted_of(bench, 1 - reducer) == []  # one line carries it, not all at once
    house.clock.now += 31.0
    assert await wanted_of(bench, 1 - reducer) == [digest]
    assert (await bench.put(bench.members[1 - reducer], digest)).status_code == TAKEN
    assert path.read_bytes() == blob
    assert await wanted_of(bench, reducer) == []
    assert "blobs_missing" not in await counted(house)


async def test_nobody_is_asked_for_what_the_log_does_not_name(house: Any, eventually: Eventually) -> None:
    bench, _, _ = await first_round(house, eventually)
    assert (await house.http.get(f"/blobs/{'0' * 64}", headers=bench.members[0].headers)).status_code == MISSING
    assert [await wanted_of(bench, number) for number in (0, 1)] == [[], []]
    assert await counted(house) == {}


async def test_a_range_of_a_damaged_update_is_given_and_the_whole_finds_it(house: Any, eventually: Eventually) -> None:
    bench, _, digest = await first_round(house, eventually)
    path = house.backend.settings.data_dir / "blobs" / digest
    path.write_bytes(b"\0" * path.stat().st_size)
    headers = bench.members[0].headers
    part = await house.http.get(f"/blobs/{digest}", headers=headers | {"Range": "bytes=1-9"})
    assert (part.content, path.exists()) == (b"\0" * 9, True)
    await house.http.get(f"/blobs/{digest}", headers=headers | {"Range": "bytes=0-"})
    assert not path.exists()
    assert (await counted(house))["blobs_damaged"] == 1


async def test_a_storage_that_cannot_be_read(
    house: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, _, digest = await first_round(house, eventually)

    def broken(_: Blobs, name: str) -> None:
        raise OSError(5, f"Input/output error at {name}")

    with monkeypatch.context() as patched:
        patched.setattr(Blobs, "_path", broken)
        reply = await house.http.get(f"/blobs/{digest}", headers=bench.members[0].headers)
    assert (reply.status_code, reply.json()["slug"]) == (NO_ROOM, "storage-failed")
    assert await counted(house) == {"storage_failures": 1}


async def test_a_worker_whose_disk_is_full(house: Any) -> None:
    members = await house.start(3, **SOLO)
    await members[0].beat("leaving", epoch=1, failure="storage-failed", failure_message="updates cannot be written")
    await members[1].beat("leaving", epoch=2, failure="engine-died", failure_message="the engine was killed")
    assert await counted(house) | {"terms_raised": 0, "residuals_lost": 0} == {
        "clusters_lost": 2,
        "worker_storage_failures": 1,
        "terms_raised": 0,
        "residuals_lost": 0,
    }
