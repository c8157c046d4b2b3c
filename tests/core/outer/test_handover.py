"""A reducer that leaves: what waits with it arrives at the next one, and nowhere else, within its time."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from legion.codec.api import Floats
from legion.errors import LegionError, PartInvalid, PartRefused, PeerLost
from legion.ids import ClusterId, Rank, RunId, WorkerId
from legion.outer.handover import CODEC, LEAVING_S, heir_of
from legion.outer.log import values_of
from legion.outer.reducing import EARLY_S
from legion.rounds import HandedSpan, Handover, ResidualKey, RoundPlan, RoundRecord
from tests.core.outer.post_office import FIRST, SECOND, THIRD, A, B, C, Post, post_office, raised
from tests.core.outer.reducing_desk import parts_of
from tests.core.outer.small_rounds import RUN, plan_of, record_of, worker_of
from tests.core.outer.virtual_time import in_virtual_time, later, settled

Exact = NDArray[np.float64]
SPANS = range(2)
LOSSY = {"codec": "none", "update_codec": "int4", "quorum": 1.0}
PLAN, NEXT = plan_of(0), plan_of(1)


async def reduced(post: Post, plan: RoundPlan, spans: Sequence[int] = SPANS) -> RoundRecord | None:
    """All have contributed; the record, if all spans have an update."""
    post.courier.plan_arrived(plan)
    parts = [part for span in spans for cluster in (A, B, C) for part in parts_of(plan, cluster, span)]
    await asyncio.gather(*(post.courier.take_part(*part) for part in parts))
    await settled()
    reports = {report.span: report for report in post.control.reports if report.round == plan.round}
    return record_of(plan, [reports[span] for span in SPANS]) if len(reports) == len(SPANS) else None


def applied(post: Post, record: RoundRecord) -> list[Exact]:
    """The updates, by span."""
    sizes = [stop - start for start, stop in record.bounds]
    return [
        values_of(post.courier.blob(span.digest), size).astype(np.float64)
        for span, size in zip(record.spans, sizes, strict=True)
    ]


def work_of(plan: RoundPlan, span: int) -> Exact:
    """The mean of what all contribute in a round, by plain arithmetic."""
    total = np.zeros(len(plan.spans[span].bounds))
    for participant in plan.participants:
        layout = participant.layout(plan.shape)
        for _, key, data in parts_of(plan, participant.cluster, span):
            values, at = np.frombuffer(data, np.float32), 0
            for fragment in layout.fragments(Rank(key.rank), plan.spans[span].bounds):
                size = len(fragment.flat)
                total[fragment.span_offset : fragment.span_offset + size] += values[at : at + size] / 3.0
                at += size
    return total


def waiting(post: Post, plan: RoundPlan, span: int) -> Exact:
    """At this worker."""
    values = post.courier._reducing.residuals.take(plan.spans[span].bounds)
    return np.zeros(len(plan.spans[span].bounds)) if values is None else values.astype(np.float64)


async def delivered(post: Post, sent: Sequence[tuple[WorkerId, ResidualKey, bytes]]) -> None:
    """Twice, as if an answer had been lost."""
    for _, key, data in (*sent, *sent):
        await post.courier.admit_residual(FIRST, key)
        await post.courier.take_residual(FIRST, key, data)


@dataclass
class Story:
    """Two rounds, both of which the first reducer may see; what it sent when it left, and all that was applied."""

    updates: list[Exact] = field(default_factory=lambda: [np.zeros(len(PLAN.spans[s].bounds)) for s in SPANS])
    records: list[RoundRecord] = field(default_factory=list)
    sent: list[tuple[WorkerId, ResidualKey, bytes]] = field(default_factory=list)
    handover: Handover | None = None

    def add(self, post: Post, record: RoundRecord) -> None:
        self.records.append(record)
        self.updates = [before + new for before, new in zip(self.updates, applied(post, record), strict=True)]


def first_leaves(tmp_path: Path, when: str, **links: Any) -> Story:
    story = Story()

    async def run() -> None:
        async with post_office(tmp_path / "first", cluster=C, **LOSSY) as post:
            for name, value in links.items():
                setattr(post.links, name, value)
            record = await reduced(post, PLAN)
            assert record is not None
            story.add(post, record)
            post.courier.record_arrived(record)
            if when == "before its update":
                post.courier.plan_arrived(NEXT)
            else:
                record = await reduced(post, NEXT)
                assert record is not None
                story.add(post, record)
                if when == "after its record":
                    post.courier.record_arrived(record)
            story.handover = await post.courier.hand_over()
            story.sent = post.links.residuals
            if when == "before its update":  # nothing more is made here
                assert await reduced(post, NEXT) is None

    in_virtual_time(run())
    return story


@pytest.mark.parametrize("when", ["before its update", "after its update", "after its record"])
@pytest.mark.parametrize("record_first", [False, True])
def test_all_work_is_applied_or_waits_at_the_next_reducer(tmp_path: Path, when: str, *, record_first: bool) -> None:
    story = first_leaves(tmp_path, when)
    assert [worker for worker, _, _ in story.sent] == [SECOND] * 2
    under_way = when == "after its update"
    update = [span.digest if under_way else None for span in story.records[-1].spans]
    spans = tuple(HandedSpan(span=span, heir=SECOND, update=update[span]) for span in SPANS)
    assert story.handover == Handover(round=1, spans=spans)

    async def run() -> None:
        async with post_office(tmp_path / "second", cluster=B, **LOSSY) as post:
            for plan in (PLAN, NEXT):
                post.courier.plan_arrived(plan)
            post.courier.record_arrived(story.records[0])
            if when == "before its update":
                await delivered(post, story.sent)
                record = await reduced(post, raised(NEXT, 1, 1))
                assert record is not None
                story.add(post, record)
                post.courier.record_arrived(record)
            elif record_first:
                post.courier.record_arrived(story.records[1])
                await delivered(post, story.sent)
            else:
                await delivered(post, story.sent)
                post.courier.record_arrived(story.records[1])
            for span in SPANS:
                rest = waiting(post, NEXT, span)
                done = work_of(PLAN, span) + work_of(NEXT, span)
                # int8 has rounded off half a 127th of what waited, at most 1/14 of the largest value, which is 1.
                assert np.abs(story.updates[span] + rest - done).max() < 1 / 14 / 254 + 1e-5
                assert np.abs(rest).max() > 1e-3

    in_virtual_time(run())


def test_what_belongs_to_an_update_that_was_not_committed_is_void(tmp_path: Path) -> None:
    story = first_leaves(tmp_path, "after its update")

    async def run() -> None:
        async with post_office(tmp_path / "second", cluster=B, **LOSSY) as post:
            for plan in (PLAN, NEXT):
                post.courier.plan_arrived(plan)
            await delivered(post, story.sent)
            record = await reduced(post, raised(NEXT, 1, 1))
            assert record is not None
            post.courier.record_arrived(record)
            for span in SPANS:
                update = applied(post, record)[span]
                # Norms differ a little, so a little is clipped.
                assert np.abs(update + waiting(post, NEXT, span) - work_of(NEXT, span)).max() < 1e-5

    in_virtual_time(run())


# Time.


def test_a_hanging_heir_delays_nobody_for_long(tmp_path: Path) -> None:
    """And what goes to others arrives meanwhile."""

    async def run() -> None:
        async with post_office(tmp_path / "first", cluster=C, **LOSSY) as post:
            record = await reduced(post, PLAN)
            assert record is not None
            post.courier.record_arrived(record)
            second = NEXT.spans[1].model_copy(update={"reducers": (FIRST, THIRD)})
            post.courier.plan_arrived(NEXT.model_copy(update={"spans": (NEXT.spans[0], second)}))
            post.links.hanging.add(SECOND)
            began = asyncio.get_running_loop().time()
            handover = await post.courier.hand_over()
            assert asyncio.get_running_loop().time() - began == pytest.approx(LEAVING_S)
            assert handover == Handover(round=1, spans=(HandedSpan(span=1, heir=THIRD),))

    in_virtual_time(run())


@pytest.mark.parametrize("error", [PeerLost("it is gone"), PartRefused("not yours", reason="stranger")])
def test_what_an_heir_does_not_take_is_not_handed_over(tmp_path: Path, error: LegionError) -> None:
    story = first_leaves(tmp_path, "after its record", of_parts={SECOND: [error, None]})
    assert story.handover is not None
    assert [handed.span for handed in story.handover.spans] == [1]


def test_with_nothing_to_hand_over_nothing_is_sent(tmp_path: Path) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "first", cluster=C, **LOSSY) as post:
            assert await post.courier.hand_over() is None  # before there is a plan
        async with post_office(tmp_path / "again", cluster=C, **LOSSY) as post:
            post.courier.plan_arrived(PLAN)
            assert await post.courier.hand_over() == Handover(round=0, spans=())
            assert post.links.residuals == []

    in_virtual_time(run())


def test_heirs_are_next_in_the_list_and_there() -> None:
    assert heir_of(PLAN, 0, ()) == SECOND
    assert heir_of(PLAN, 0, {B}) == THIRD
    assert heir_of(PLAN, 0, {A, B}) is None
    assert heir_of(raised(PLAN, 1, 0), 0, ()) == THIRD
    own = PLAN.spans[0].model_copy(update={"reducers": (FIRST, worker_of(C, 1), WorkerId("unknown"))})
    assert heir_of(PLAN.model_copy(update={"spans": (own,)}), 0, ()) is None


# What is refused.


def key_of(values: Floats, **changes: Any) -> tuple[ResidualKey, bytes]:
    data = bytes(CODEC.encode(values))
    fields: dict[str, Any] = {
        "run_id": RUN,
        "round": 1,
        "span": 0,
        "term": 0,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return ResidualKey(**(fields | changes)), data


NUMEL = len(NEXT.spans[0].bounds)
GOOD = np.linspace(-1, 1, NUMEL, dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "sender", "reason"),
    [
        ({"run_id": RunId("run-other")}, FIRST, "round"),
        ({"span": 9}, FIRST, "span"),
        ({"term": 1}, FIRST, "stranger"),  # the second's, and that is not there yet
        ({}, THIRD, "stranger"),
        ({}, SECOND, "stranger"),
        ({}, worker_of(ClusterId("z"), 0), "stranger"),
        ({"size_bytes": 10**9}, FIRST, "invalid"),
        ({"sha256": "0" * 64}, FIRST, "digest"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], sender: WorkerId, reason: str) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "second", cluster=B, **LOSSY) as post:
            post.courier.plan_arrived(NEXT)
            key, data = key_of(GOOD, **change)
            with pytest.raises((PartRefused, PartInvalid)) as caught:
                await post.courier.take_residual(sender, key, data)
            assert getattr(caught.value, "reason", "invalid") == reason
            assert not waiting(post, NEXT, 0).any()
            await post.moved(1)
            assert post.control.roots[0].refused == {reason: 1}

    in_virtual_time(run())


def test_values_that_sum_up_to_infinity_are_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "second", cluster=B, **LOSSY) as post:
            post.courier.plan_arrived(NEXT)
            with pytest.raises(PartRefused) as caught:
                await post.courier.take_residual(FIRST, *key_of(np.full(NUMEL, 2.0**65, np.float32)))
            assert caught.value.reason == "not-finite"

    in_virtual_time(run())


def test_a_second_residual_is_refused_and_the_same_counts_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "second", cluster=B, **LOSSY) as post:
            post.courier.plan_arrived(NEXT)
            good, other = key_of(GOOD), key_of(-GOOD)
            await asyncio.gather(*(post.courier.take_residual(FIRST, *good) for _ in range(3)))
            with pytest.raises(PartRefused) as caught:
                await post.courier.take_residual(FIRST, *other)
            assert caught.value.reason == "repeated"
            assert np.abs(waiting(post, NEXT, 0) - GOOD).max() < 1 / 254 + 1e-6

    in_virtual_time(run())


def test_who_is_not_listed_takes_none_and_old_rounds_are_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "third", cluster=A, **LOSSY) as post:
            listed = NEXT.spans[0].model_copy(update={"reducers": (FIRST, SECOND)})
            post.courier.plan_arrived(NEXT.model_copy(update={"spans": (listed, NEXT.spans[1])}))
            for wanted, change in (("reducer", {}), ("round", {"round": 0})):
                if wanted == "round":
                    post.courier.plan_arrived(plan_of(2))
                with pytest.raises(PartRefused) as caught:
                    await post.courier.take_residual(FIRST, *key_of(GOOD, **change))
                assert caught.value.reason == wanted

    in_virtual_time(run())


def test_a_residual_may_come_before_its_plan(tmp_path: Path) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "second", cluster=B, **LOSSY) as post:
            post.courier.plan_arrived(PLAN)
            early = asyncio.ensure_future(post.courier.take_residual(FIRST, *key_of(GOOD)))
            await later(1)
            post.courier.plan_arrived(NEXT)
            await early
            assert waiting(post, NEXT, 0).any()
            never = asyncio.ensure_future(post.courier.take_residual(FIRST, *key_of(GOOD, round=2)))
            await later(EARLY_S + 1)
            with pytest.raises(PartRefused):
                await never

    in_virtual_time(run())
