"""A newcomer asks its own region for updates before it asks far away."""

from pathlib import Path

import pytest

from legion.errors import LegionError, NotFound, PeerLost
from legion.outer.donors import donor
from legion.rounds import RoundPlan
from tests.core.outer.post_office import FIRST, SECOND, THIRD, A, C, Post, blob, record, sha, with_post
from tests.core.outer.small_rounds import plan_of, worker_of
from tests.core.outer.virtual_time import settled

ME, MATE = worker_of(A, 0), worker_of(C, 1)


def newest(number: int = 5, **regions: int) -> RoundPlan:
    named = {"first": FIRST, "second": SECOND, "me": ME, "mate": MATE}
    return plan_of(number, regions=tuple((named[name], region) for name, region in regions.items()))


def test_somebody_near_is_asked_before_a_reducer_that_is_far() -> None:
    plan = newest(me=0, mate=0, first=1, second=1)
    found = donor(ME, plan, 0, FIRST, "a")
    assert found is not None
    assert found.worker_id == MATE
    assert donor(ME, plan, 4, FIRST, "a") is None, "whoever is near fetches it at this moment"
    assert donor(ME, newest(me=1, mate=1, first=1), 0, FIRST, "a") is None, "the reducer is near"
    assert donor(ME, newest(me=0, first=1), 0, FIRST, "a") is None
    assert donor(ME, newest(first=1), 0, FIRST, "a") is None
    assert donor(ME, None, 0, FIRST, "a") is None


def test_those_near_share_what_they_are_asked_for() -> None:
    plan = newest(me=0, mate=0, second=0, first=1)
    asked = {found.worker_id for n in range(64) if (found := donor(ME, plan, 0, FIRST, str(n))) is not None}
    assert asked == {MATE, SECOND}


def test_an_update_of_a_round_that_is_past_comes_from_near(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.links.of_blobs[SECOND] = [blob(0, 0), blob(0, 1)]
        post.courier.plan_arrived(newest(me=0, second=0, first=1))
        post.courier.plan_arrived(plan_of(0))
        post.courier.record_arrived(record(0))
        await settled()
        assert {worker for worker, _ in post.links.fetched} == {SECOND}
        assert post.names == {sha(blob(0, 0)), sha(blob(0, 1))}
        assert post.control.asked == []

    assert ME == THIRD
    with_post(tmp_path, test)


@pytest.mark.parametrize("trouble", [NotFound("not here any more"), PeerLost("gone")])
def test_what_nobody_near_has_comes_from_its_reducer_and_then_from_storage(
    tmp_path: Path, trouble: LegionError
) -> None:
    async def test(post: Post) -> None:
        post.links.of_blobs[SECOND] = post.links.of_blobs[FIRST] = [trouble]
        post.control.storage |= {sha(blob(0, span)): blob(0, span) for span in range(2)}
        post.courier.plan_arrived(newest(me=0, second=0, first=1))
        post.courier.plan_arrived(plan_of(0))
        post.courier.record_arrived(record(0))
        await settled()
        for span in range(2):
            asked = [worker for worker, digest in post.links.fetched if digest == sha(blob(0, span))]
            assert asked == [SECOND, FIRST]
        assert len(post.control.asked) == 2

    with_post(tmp_path, test)
