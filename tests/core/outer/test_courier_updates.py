"""A courier gets updates from whoever has them, keeps them for others, and leaves nothing behind."""

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest

from legion.errors import (
    LegionError,
    NotFound,
    PartInvalid,
    PeerLost,
    RunError,
    StorageFailed,
)
from legion.ids import ClusterId, Rank
from legion.layout import Layout
from legion.outer.arriving import RETRY_S
from legion.outer.courier import SERVED_ROUNDS
from legion.rounds import RootReport, SpanReport
from tests.core.outer.post_office import (
    FIRST,
    ROUNDS,
    SECOND,
    B,
    C,
    Post,
    arrived,
    blob,
    raised,
    record,
    sha,
    store,
    with_post,
)
from tests.core.outer.small_rounds import UNITS, fragments_of, plan_of, record_of
from tests.core.outer.virtual_time import later, settled

# Updates.


def test_an_update_comes_from_its_reducer(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.links.of_blobs[FIRST] = [blob(0, 0), blob(0, 1)]
        await arrived(post)
        assert post.links.fetched == [(FIRST, sha(blob(0, 0))), (FIRST, sha(blob(0, 1)))]
        assert post.courier.ready == 1
        assert post.names == {sha(blob(0, 0)), sha(blob(0, 1))}
        assert post.control.asked == []

    with_post(tmp_path, test)


@pytest.mark.parametrize(
    "trouble", [PeerLost("gone"), NotFound("not here"), PartInvalid("it sends more"), StorageFailed("its disk")]
)
def test_what_the_reducer_does_not_give_comes_from_storage(tmp_path: Path, trouble: LegionError) -> None:
    async def test(post: Post) -> None:
        post.links.of_blobs[FIRST] = [trouble]
        store(post, record(0))
        await arrived(post)
        assert post.courier.ready == 1

    with_post(tmp_path, test)


@pytest.mark.parametrize(("start", "trouble"), [(True, PeerLost("gone")), (False, PartInvalid("it sends more"))])
def test_an_update_that_broke_off_comes_on_from_there_unless_it_was_too_long(
    tmp_path: Path, start: bool, trouble: LegionError
) -> None:
    async def test(post: Post) -> None:
        first, second = blob(0, 0), blob(0, 1)
        rest = [first[5:], second[5:]] if start else [first, second]
        post.links.of_blobs[FIRST] = [(first[:5], trouble), (second[:5], trouble), *rest]
        await arrived(post)
        await later(1)
        assert post.courier.ready == 1
        assert [sha256 for _, sha256 in post.control.asked] == [sha(first), sha(second)]
        assert len(post.links.fetched) == 4

    with_post(tmp_path, test)


def test_a_damaged_update_is_fetched_from_another_holder_and_its_holder_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(post: Post) -> None:
        damaged = blob(0, 0)[:-1] + b"?"
        post.links.of_blobs[FIRST] = [damaged, damaged, blob(0, 0), blob(0, 1)]
        post.control.storage = {sha(blob(0, 0)): damaged, sha(blob(0, 1)): blob(0, 1)}
        await arrived(post)
        assert post.courier.ready == 0
        assert post.names == {sha(blob(0, 1))}
        await later(1)
        assert post.courier.ready == 1
        holders = [r.args[0] for r in caplog.records if r.msg.startswith("update damaged")]  # type: ignore[index]
        assert sorted(map(str, holders)) == sorted([FIRST, FIRST, "storage"])
        reported = RootReport(round=1, cluster=B, rank=0, root="0" * 64)
        for _ in range(2):
            post.courier.applied(lambda: reported)
            await settled()
        assert [report.damaged for report in post.control.roots] == [3, 0]

    with_post(tmp_path, test)


def test_an_update_that_is_nowhere_for_a_while(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        await arrived(post)
        await later(60)
        assert post.courier.ready == 0
        times = sorted({at for at, sha256 in post.control.asked if sha256 == sha(blob(0, 0))})
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert pauses == pytest.approx([*RETRY_S, *([RETRY_S[-1]] * (len(pauses) - len(RETRY_S)))])
        store(post, record(0))
        await later(RETRY_S[-1])
        assert post.courier.ready == 1

    with_post(tmp_path, test)


@pytest.mark.parametrize("who", ["of nobody we know", "that was ours"])
def test_an_update_that_only_storage_can_have(tmp_path: Path, who: str) -> None:
    """Its reducer is in no plan that we have; or it is us, and our folder was lost."""

    async def test(post: Post) -> None:
        store(post, record(0))
        post.courier.plan_arrived(plan_of(1))
        if who == "that was ours":
            post.courier.plan_arrived(plan_of(0))
        post.courier.record_arrived(record(0, reducer_term=2 if who == "that was ours" else 0))
        await settled()
        assert post.links.fetched == []
        assert {name for _, name in post.control.asked} == post.names == {sha(blob(0, 0)), sha(blob(0, 1))}

    with_post(tmp_path, test)


@pytest.mark.parametrize("cluster", [B, C])
def test_only_what_our_slice_needs_is_fetched(tmp_path: Path, cluster: ClusterId) -> None:
    async def test(post: Post) -> None:
        plan = plan_of(0, span_count=6)
        datas = [blob(0, span) for span in range(6)]
        reports = [
            SpanReport(round=0, span=span, term=0, digest=sha(data), size_bytes=len(data), included=())
            for span, data in enumerate(datas)
        ]
        post.control.storage = {sha(data): data for data in datas}
        post.courier.plan_arrived(plan)
        post.courier.plan_arrived(plan_of(1))
        post.courier.record_arrived(record_of(plan, reports))
        await settled()
        needed = {sha(data) for span, data in enumerate(datas) if fragments_of(plan, span, cluster, 0)}
        assert 0 < len(needed) < 6
        assert post.names == needed
        assert post.courier.ready == 1

    with_post(tmp_path, test, cluster=cluster)


def test_a_member_whose_slice_is_empty_needs_no_update(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        await arrived(post)
        assert post.names == set()
        assert post.courier.ready == 1

    layout = Layout(UNITS, (1, 1000))
    assert layout.owned(Rank(0)) == 0
    with_post(tmp_path, test, layout=layout)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_ends_the_engine_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, record(0))
        for span in range(2):
            (post.folder / f".{sha(blob(0, span))}.partial").symlink_to("/dev/full")
        await arrived(post)
        await asyncio.get_running_loop().create_future()  # the compute thread, that waits for an anchor

    with pytest.raises(StorageFailed, match="No space left on device"):
        with_post(tmp_path, test)
    left = list((tmp_path / "updates").iterdir())
    assert len(left) < 2  # the other may not have been begun
    assert all(path.is_symlink() for path in left)


# What is kept.


def test_what_nobody_will_ask_for_is_forgotten(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, *map(record, range(ROUNDS)))
        newest = ROUNDS - 1
        for number in range(newest):
            await arrived(post, number)
            await post.moved(number + 1)
        kept = range(newest - SERVED_ROUNDS, newest)
        assert post.names == {sha(blob(number, span)) for number in kept for span in range(2)}
        for number in range(newest):
            assert (number in kept) == (post.courier.update(sha(blob(number, 0))) is not None)
            with contextlib.suppress(KeyError) if number in kept else pytest.raises(KeyError):
                post.courier.record(number)
            with contextlib.suppress(KeyError) if number in kept else pytest.raises(KeyError):
                post.courier.plan(number)
        post.courier.record_arrived(record(0))  # repeated; long applied
        await settled()
        with pytest.raises(KeyError):
            post.courier.record(0)
        assert [report.round for report in post.control.roots] == list(range(1, newest + 1))

    with_post(tmp_path, test)


def test_an_update_that_comes_again_is_kept_as_long_as_its_last_round(tmp_path: Path) -> None:
    """As that of a span which nobody changes."""

    async def test(post: Post) -> None:
        rounds = SERVED_ROUNDS + 2
        store(post, record(0))
        for number in range(rounds):
            post.courier.plan_arrived(plan_of(number))
            post.courier.record_arrived(record(number, same=True))
        post.courier.plan_arrived(plan_of(rounds))
        await settled()
        await post.moved(rounds)
        assert post.names == {sha(blob(0, 0)), sha(blob(0, 1))}
        assert post.courier.blob(sha(blob(0, 0))) == blob(0, 0)

    with_post(tmp_path, test)


def test_an_update_of_ours_that_was_not_committed_is_forgotten_too(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        plan = raised(plan_of(0), 2, 0)
        alone = plan.model_copy(update={"participants": plan.participants[:1]})
        post.courier.plan_arrived(alone)
        post.send(alone)
        await settled()
        [report] = post.control.reports
        assert report.digest in post.names
        store(post, *map(record, range(ROUNDS)))
        for number in range(SERVED_ROUNDS + 1):  # committed in another term, with another digest
            await arrived(post, number)
            await post.moved(number + 1)
            assert (report.digest in post.names) == (number < SERVED_ROUNDS)

    with_post(tmp_path, test)


# Waiting, stopping, leaving.


def test_the_compute_thread_waits_for_an_anchor(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, record(0))
        post.courier.plan_arrived(plan_of(0))
        await asyncio.to_thread(post.courier.wait_ready, 0)  # returns at once
        waiting = asyncio.create_task(asyncio.to_thread(post.courier.wait_ready, 1))
        await asyncio.sleep(0)
        post.courier.record_arrived(record(0))
        assert not waiting.done()
        post.courier.plan_arrived(plan_of(1))
        await waiting
        assert post.courier.ready == 1

    with_post(tmp_path, test)


def test_nobody_waits_any_more_when_the_engine_stops(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(post.courier.wait_ready, 5))
        await asyncio.sleep(0)
        assert not waiting.done()
        post.courier.wake()
        await waiting
        await asyncio.to_thread(post.courier.wait_ready, 6)
        assert post.courier.ready == -1

    with_post(tmp_path, test)


def test_nobody_waits_for_a_round_in_a_plan_that_is_broken(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(post.courier.wait_ready, 5))
        await asyncio.sleep(0)
        post.courier.plan_broken()
        await waiting
        await post.courier.take_seat(post.courier._place, 0)  # in the plan that takes its place
        again = asyncio.create_task(asyncio.to_thread(post.courier.wait_ready, 5))
        await asyncio.sleep(0)
        assert not again.done()
        post.courier.wake()
        await again

    with_post(tmp_path, test)


def test_leaving_ends_everything_that_is_under_way(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        """Parts that hang and parts that wait, updates that are nowhere, spans that nobody contributes to."""
        post.links.hanging.add(FIRST)
        post.links.of_parts[SECOND] = [PeerLost("gone")]
        post.courier.plan_arrived(plan := raised(raised(plan_of(0), 1, 0), 1, 2))
        post.send(plan, 0)
        post.send(plan, 1)
        post.courier.record_arrived(record(1))
        await later(3)
        assert len(asyncio.all_tasks()) > 3

    with_post(tmp_path, test)  # checks that no task is left


@pytest.mark.parametrize("error", [RunError("the run cannot go on"), ValueError("a mistake")])
def test_what_goes_wrong_inside_comes_out_as_it_is(tmp_path: Path, error: Exception) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        raise error

    with pytest.raises(type(error)) as caught:
        with_post(tmp_path, test)
    assert caught.value is error


def test_a_membership_that_is_cancelled_ends(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.get_running_loop().create_future()

    with pytest.raises(asyncio.CancelledError):
        with_post(tmp_path, test)
