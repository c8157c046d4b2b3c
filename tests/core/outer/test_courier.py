"""A courier sends parts until their round is committed, and hears what the coordinator says."""

import asyncio
import itertools
from pathlib import Path

import numpy as np
import pytest

from legion.codec.registry import by_name
from legion.errors import (
    LegionError,
    NotFinite,
    PartInvalid,
    PartRefused,
    PeerLost,
    PeerRefused,
    Unavailable,
)
from legion.ids import ClusterId, WorkerId
from legion.outer.arriving import RETRY_S
from legion.outer.courier import SERVED_ROUNDS
from legion.outer.reducing import EARLY_S
from legion.rounds import PartKey, RoundPlan
from tests.core.outer.post_office import (
    FIRST,
    LONG_S,
    ROUNDS,
    SECOND,
    A,
    B,
    C,
    Post,
    blob,
    raised,
    record,
    sha,
    store,
    with_post,
)
from tests.core.outer.small_rounds import fragments_of, part_key, plan_of, worker_of
from tests.core.outer.virtual_time import later, settled

# Parts on their way.


def test_a_part_is_handed_over_once_and_kept_until_its_round_is_committed(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(plan := plan_of(0))
        key = post.send(plan)
        await later(LONG_S)
        [(_, worker, sent, data)] = post.links.sent
        assert (worker, sent) == (FIRST, key)
        assert sha(data) == key.sha256
        post.courier.plan_arrived(raised(plan, 1, 0))
        await settled()
        assert post.sent_to == [FIRST, SECOND]
        store(post, record(0))
        post.courier.record_arrived(record(0))
        post.courier.plan_arrived(raised(raised(plan, 1, 0), 2, 0))
        await later(LONG_S)
        assert post.sent_to == [FIRST, SECOND]
        assert post.control.reports == []  # the span is ours now, but the round is over

    with_post(tmp_path, test)


def test_a_reducer_that_cannot_be_reached_is_tried_again_and_again(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.links.of_parts[FIRST] = [PeerLost("gone"), PeerRefused("not a worker of this round"), Unavailable("later")]
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await later(20)
        times = [at for at, *_ in post.links.sent]
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert pauses == pytest.approx([*RETRY_S, *([RETRY_S[-1]] * (len(pauses) - len(RETRY_S)))])
        post.links.of_parts[FIRST] = [None]
        await later(LONG_S)
        assert len(post.links.sent) == len(times) + 1

    with_post(tmp_path, test)


@pytest.mark.parametrize(
    "refusal", [PartRefused("closed", reason="late"), PartInvalid("9 bytes"), NotFinite("it holds NaN")]
)
def test_a_refused_part_is_not_repeated_in_the_same_term(
    tmp_path: Path, refusal: LegionError, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(post: Post) -> None:
        post.links.of_parts[FIRST] = [refusal]
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await later(LONG_S)
        assert post.sent_to == [FIRST]
        assert f"part refused round=0 span=0 why={refusal}" in caplog.text
        post.courier.plan_arrived(raised(plan, 0, 1))  # of another span
        await later(LONG_S)
        assert post.sent_to == [FIRST]
        post.courier.plan_arrived(raised(raised(plan, 0, 1), 1, 1))
        await later(LONG_S)
        assert post.sent_to == [FIRST, SECOND]

    with_post(tmp_path, test)


@pytest.mark.parametrize("how", ["hangs", "cannot be reached"])
def test_the_backup_is_sent_to_at_once_whatever_the_reducer_does(tmp_path: Path, how: str) -> None:
    async def test(post: Post) -> None:
        if how == "hangs":
            post.links.hanging.add(FIRST)
        post.links.of_parts[FIRST] = [PeerLost("gone")]
        post.courier.plan_arrived(plan := plan_of(0))
        keys = [post.send(plan, span) for span in range(2)]
        await later(30)
        before = asyncio.get_running_loop().time()
        assert set(post.sent_to) == {FIRST}
        post.courier.plan_arrived(raised(plan, 1, 1))
        await settled()
        to_backup = [(at, key) for at, worker, key, _ in post.links.sent if worker == SECOND]
        assert to_backup == [(before, key) for key in keys]
        assert post.links.given_up == ([FIRST, FIRST] if how == "hangs" else [])

    with_post(tmp_path, test)


def test_a_call_that_hangs_ends_with_its_round(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.links.hanging.add(FIRST)
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await later(1)
        store(post, *map(record, range(ROUNDS)))
        for number in range(SERVED_ROUNDS + 3):  # so far on that nothing of round 0 is kept
            post.courier.record_arrived(record(number))
            post.courier.plan_arrived(plan_of(number + 1))
            if number == 0:
                await settled()
                assert post.links.given_up == [FIRST]
        await settled()
        await post.moved(SERVED_ROUNDS + 3)
        await later(LONG_S)
        assert post.sent_to == [FIRST]

    with_post(tmp_path, test)


def test_a_part_of_a_round_long_over_is_not_sent(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, *map(record, range(ROUNDS)))
        post.courier.plan_arrived(plan_of(0))
        for number in range(SERVED_ROUNDS + 2):
            post.courier.record_arrived(record(number))
            post.courier.plan_arrived(plan_of(number + 1))
        await settled()
        await post.moved(SERVED_ROUNDS + 2)
        for number in (0, 1, SERVED_ROUNDS + 1):
            post.send(plan_of(number))
        await later(LONG_S)
        assert post.sent_to == []

    with_post(tmp_path, test)


def test_a_reducer_that_the_plan_does_not_place_is_waited_out(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        plan = plan_of(0)
        nowhere = plan.model_copy(update={"participants": plan.participants[:2]})  # without the reducer's cluster
        post.courier.plan_arrived(nowhere)
        post.send(nowhere)
        await later(LONG_S)
        assert post.sent_to == []
        post.courier.plan_arrived(raised(nowhere, 1, 1))
        await settled()
        assert post.sent_to == [SECOND]

    with_post(tmp_path, test)


def test_a_span_of_our_own_takes_no_way(tmp_path: Path) -> None:
    """All that is expected is here: it is combined, kept and reported."""

    async def test(post: Post) -> None:
        plan = raised(plan_of(0), 2, 0)
        alone = plan.model_copy(update={"participants": plan.participants[:1]})
        post.courier.plan_arrived(alone)
        key = post.send(alone)
        await settled()
        [report] = post.control.reports
        assert (report.round, report.span, report.term) == (0, 0, 2)
        assert [(i.cluster, i.parts) for i in report.included] == [(A, (key.sha256,))]
        assert post.names == {report.digest}
        update = post.courier.update(report.digest)
        assert update is not None
        assert update.nbytes == report.size_bytes
        assert post.courier.update("0" * 64) is None
        assert post.sent_to == []

    with_post(tmp_path, test)


# What the coordinator says.


def test_repeated_and_late_plans_change_nothing(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        courier = post.courier
        courier.plan_arrived(newer := raised(raised(plan_of(1), 0, 0), 1, 0))
        for other in (
            newer.model_copy(update={"steps": 99}),
            plan_of(1).model_copy(update={"steps": 99}),
            newer.model_copy(update={"revision": 1, "steps": 99}),
        ):
            courier.plan_arrived(other)
            assert courier.plan(1) == newer
        await later(50)
        courier.plan_arrived(plan_of(0))  # heard late; the newest stays the newest
        assert courier.plan(0) == plan_of(0)
        await later(9.5)
        assert not courier.late
        await later(1)
        assert courier.late

    with_post(tmp_path, test)


def test_late_is_counted_from_when_the_newest_round_is_heard_of(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        loop, courier = asyncio.get_running_loop(), post.courier
        courier.plan_arrived(plan := plan_of(0))
        assert plan.contribute_s == 60
        await later(59.5)
        assert not courier.late
        courier.plan_arrived(raised(plan, 1, 0))  # of the same round: no more time
        await later(1)
        assert courier.late
        courier.plan_arrived(plan_of(1))
        assert not courier.late
        await later(60)
        assert courier.late
        assert loop.time() == pytest.approx(120.5)

    with_post(tmp_path, test)


NEWS = ["plan 0", "plan 1", "record 0", "record 1", "record 1"]


@pytest.mark.parametrize("order", sorted(set(itertools.permutations(NEWS))))
def test_ready_needs_the_plan_and_every_update_before_it(tmp_path: Path, order: tuple[str, ...]) -> None:
    async def test(post: Post) -> None:
        store(post, record(0), record(1))
        assert post.courier.ready == -1
        heard: set[str] = set()
        for news in order:
            what, number = news.split()
            if what == "plan":
                post.courier.plan_arrived(plan_of(int(number)))
            else:
                post.courier.record_arrived(record(int(number)))
            heard.add(news)
            await settled()
            expected = -1
            if "plan 0" in heard:
                expected = 1 if heard >= {"plan 1", "record 0"} else 0
            assert post.courier.ready == expected
        assert len(post.control.asked) == 4  # nothing twice

    with_post(tmp_path, test)


def test_the_last_anchor_needs_no_plan(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        last = record(ROUNDS - 1)
        store(post, last)
        post.courier.plan_arrived(plan_of(ROUNDS - 1))
        assert post.courier.ready == ROUNDS - 1
        post.courier.record_arrived(last)
        await settled()
        assert post.courier.ready == ROUNDS

    with_post(tmp_path, test, anchor=ROUNDS - 1)


def test_who_comes_back_catches_up_with_all_rounds_at_once(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, *map(record, range(6)))
        for number in reversed(range(6)):
            post.courier.record_arrived(record(number))
        for number in reversed(range(2, 7)):
            post.courier.plan_arrived(plan_of(number))
        await settled()
        assert post.courier.ready == 6
        assert post.courier.record(3) == record(3)
        assert post.courier.blob(sha(blob(3, 1))) == blob(3, 1)
        with pytest.raises(KeyError):
            post.courier.record(1)  # before the anchor that we began with

    with_post(tmp_path, test, anchor=2)


def test_whom_we_know(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        assert not post.courier.knows(FIRST)
        plans = [plan_of(number) for number in range(3)]
        alone = [p.model_copy(update={"participants": (p.participants[i],)}) for i, p in enumerate(plans)]
        for plan in alone:
            post.courier.plan_arrived(plan)
        assert [post.courier.knows(worker_of(cluster, 0)) for cluster in (A, B, C)] == [False, True, True]
        assert not post.courier.knows(WorkerId("stranger"))

    with_post(tmp_path, test)


# Parts of others.


def part_of(plan: RoundPlan, cluster: ClusterId, span: int = 0) -> tuple[WorkerId, PartKey, bytes]:
    size = sum(len(f.flat) for f in fragments_of(plan, span, cluster, 0))
    data = bytes(by_name("none").encode(np.ones(size, np.float32)))
    return worker_of(cluster, 0), part_key(plan, span, cluster, 0, by_name("none"), data), data


def test_a_part_that_comes_before_its_plan_waits_for_it(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        sender, key, data = part_of(plan := raised(plan_of(0), 2, 2), B)
        early = asyncio.create_task(post.courier.take_part(sender, key, data))
        admission = asyncio.create_task(post.courier.admit(sender, key))
        await later(EARLY_S - 1)
        assert not early.done()
        post.courier.plan_arrived(plan_of(0))  # where the span is not ours yet
        await later(0.5)
        assert not early.done()
        post.courier.plan_arrived(plan)
        await asyncio.gather(early, admission)

    with_post(tmp_path, test, codec="none")


def test_a_part_whose_plan_does_not_come_is_to_come_again(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        sender, key, data = part_of(plan := raised(plan_of(0), 2, 2), B)
        for call in (post.courier.take_part(sender, key, data), post.courier.admit(sender, key)):
            before = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match="span 0 of round 0 is not reduced here, or not yet"):
                await call
            assert asyncio.get_running_loop().time() - before == pytest.approx(EARLY_S)
        post.courier.plan_arrived(plan)
        await post.courier.take_part(sender, key, data)

    with_post(tmp_path, test, codec="none")
