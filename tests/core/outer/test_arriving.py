"""Updates that are asked for before their round is committed."""

import asyncio
from pathlib import Path

import pytest

from legion.errors import LegionError, NotFound, PeerLost
from legion.outer.arriving import COMING_S, Limits, Memory
from legion.outer.courier import SERVED_ROUNDS
from legion.rounds import UpdateKey
from tests.core.outer.post_office import (
    FIRST,
    ROUNDS,
    SECOND,
    B,
    Post,
    arrived,
    blob,
    raised,
    record,
    sha,
    store,
    with_post,
)
from tests.core.outer.small_rounds import plan_of
from tests.core.outer.virtual_time import in_virtual_time, later, settled


def test_more_than_fits_waits_and_what_never_fits_comes_alone() -> None:
    memory = Memory(10)
    inside: list[int] = []

    async def arrive(size: int, end: asyncio.Event) -> None:
        async with memory.room(size):
            inside.append(size)
            await end.wait()
            inside.remove(size)

    async def test() -> None:
        ends = {size: asyncio.Event() for size in (4, 6, 0, 1, 99)}
        async with asyncio.TaskGroup() as group:
            for size, end in ends.items():
                group.create_task(arrive(size, end))
            await settled()
            assert inside == [4, 6, 0]
            ends[4].set()
            await settled()
            assert inside == [6, 0, 1]
            for size in (6, 0, 1):
                ends[size].set()
            await settled()
            assert inside == [99]
            ends[99].set()

    in_virtual_time(test())


def to_come(post: Post, span: int = 0, term: int = 0, number: int = 0) -> asyncio.Future[tuple[str, bytes]]:
    answer = post.links.to_come[UpdateKey(number, span, term)] = asyncio.get_running_loop().create_future()
    return answer


def test_what_came_before_the_record_is_not_fetched_again(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        answers = [to_come(post, span) for span in range(2)]
        post.courier.plan_arrived(plan := plan_of(0))
        post.courier.plan_arrived(plan_of(1))
        for span in range(2):
            post.send(plan, span)
        await settled()
        assert post.links.awaited == [(FIRST, UpdateKey(0, 0, 0)), (FIRST, UpdateKey(0, 1, 0))]
        answers[0].set_result((sha(blob(0, 0)), blob(0, 0)))
        await settled()
        assert post.names == {sha(blob(0, 0))}
        post.courier.record_arrived(record(0))
        await settled()
        assert post.courier.ready == 0
        answers[1].set_result((sha(blob(0, 1)), blob(0, 1)))  # was under way when the round was committed
        await settled()
        assert post.courier.ready == 1
        assert post.links.fetched == post.control.asked == []

    with_post(tmp_path, test)


def test_a_reducer_that_hangs_is_not_waited_for_long(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        to_come(post)
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        store(post, record(0))
        await arrived(post)
        await later(COMING_S - 0.1)
        assert post.courier.ready == 0
        await later(0.2)
        assert post.courier.ready == 1

    with_post(tmp_path, test)


def test_an_update_of_a_term_that_was_not_committed_is_of_no_use(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        stale = to_come(post)
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        stale.set_result((sha(b"stale"), b"stale"))
        await settled()
        post.courier.plan_arrived(raised(plan, 1, 0))
        await settled()
        assert post.links.awaited[-1] == (SECOND, UpdateKey(0, 0, 1))
        store(post, *map(record, range(ROUNDS)))
        for number in range(SERVED_ROUNDS + 1):
            await arrived(post, number)
            await later(COMING_S + 1)
            await post.moved(number + 1)
            assert (sha(b"stale") in post.names) == (number < SERVED_ROUNDS)
        assert post.courier.ready == SERVED_ROUNDS + 1

    with_post(tmp_path, test)


@pytest.mark.parametrize("end", ["another term", "another size", "the same size"])
def test_who_announces_an_update_and_never_ends_it_keeps_no_room(tmp_path: Path, end: str) -> None:
    async def test(post: Post) -> None:
        post.links.trickling.add(FIRST)
        data = blob(0, 0) if end == "the same size" else b"long" + blob(0, 0)
        to_come(post).set_result((sha(data), data))
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        store(post, record(0))
        post.courier.plan_arrived(plan_of(1))
        post.courier.record_arrived(record(0, reducer_term=1 if end == "another term" else 0))
        await settled()
        if end == "the same size":
            assert post.courier.ready == 0
            await later(COMING_S + 1)
        assert post.courier.ready == 1

    with_post(tmp_path, test, limits=Limits(room_bytes=len(blob(0, 0))))


@pytest.mark.parametrize("answer", [PeerLost("gone"), (sha(blob(0, 0)), b"damaged")])
def test_what_was_asked_for_in_vain_is_fetched(tmp_path: Path, answer: LegionError | tuple[str, bytes]) -> None:
    async def test(post: Post) -> None:
        coming = to_come(post)
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        if isinstance(answer, LegionError):
            coming.set_exception(answer)
        else:
            coming.set_result(answer)
        await settled()
        assert post.names == set()
        store(post, record(0))
        await arrived(post)
        assert post.courier.ready == 1

    with_post(tmp_path, test)


def test_who_asks_for_our_update_gets_it_once_it_is_made(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        plan = raised(plan_of(0), 2, 0)  # the span's reducer is us
        alone = plan.model_copy(update={"participants": plan.participants[:1]})
        early = asyncio.create_task(post.courier.made(UpdateKey(0, 0, 2)))
        await settled()
        post.courier.plan_arrived(alone)
        await settled()
        assert not early.done()
        post.send(alone)
        await settled()
        [report] = post.control.reports
        assert await early == await post.courier.made(UpdateKey(0, 0, 2)) == report.digest

    with_post(tmp_path, test)


@pytest.mark.parametrize("key", [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 7, 0), (5, 0, 0)])
def test_who_asks_for_what_we_do_not_make_is_told(tmp_path: Path, key: tuple[int, int, int]) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(raised(plan_of(0), 2, 0))
        with pytest.raises(NotFound, match=f"span {key[1]} of round {key[0]} is not reduced here in term {key[2]}"):
            await post.courier.made(UpdateKey(*key))

    with_post(tmp_path, test)


@pytest.mark.parametrize("end", ["commit", "term"])
def test_who_waits_for_our_update_hears_that_there_will_be_none(tmp_path: Path, end: str) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(plan := raised(plan_of(0), 1, 0))
        waiting = asyncio.create_task(post.courier.made(UpdateKey(0, 0, 1)))
        await settled()
        assert not waiting.done()
        if end == "commit":
            post.courier.record_arrived(record(0))
        else:
            post.courier.plan_arrived(raised(plan, 2, 0))
        with pytest.raises(NotFound):
            await waiting

    with_post(tmp_path, test, cluster=B)


def test_who_waits_for_our_update_hears_that_we_leave(tmp_path: Path) -> None:
    heard: list[BaseException] = []

    async def ask(post: Post) -> None:
        try:
            await post.courier.made(UpdateKey(0, 0, 2))
        except NotFound as error:
            heard.append(error)

    async def test(post: Post) -> None:
        post.courier.plan_arrived(raised(plan_of(0), 2, 0))
        asking.add(asyncio.create_task(ask(post)))
        await settled()
        assert not heard

    asking: set[asyncio.Task[None]] = set()
    with_post(tmp_path, test)  # checks that no task is left
    assert len(heard) == 1
