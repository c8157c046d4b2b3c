"""News of rounds as networks deliver it: in any order, more than once, with older revisions after newer ones."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.outer.post_office import Post, record, store, with_post
from tests.core.outer.small_rounds import plan_of
from tests.core.outer.virtual_time import settled

ROUNDS, REVISIONS = 3, 3
NEWS = [*itertools.product(range(ROUNDS), range(REVISIONS)), *((number, None) for number in range(ROUNDS - 1))]
repeated = st.lists(st.sampled_from(NEWS), max_size=20)


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(NEWS), again=repeated, before=repeated)
def test_whatever_the_order_and_however_often_it_ends_at_the_same(
    order: list[tuple[int, int | None]], again: list[tuple[int, int | None]], before: list[tuple[int, int | None]]
) -> None:
    """`None`: the record of the round, whose updates are in storage."""

    async def test(post: Post) -> None:
        ready, store_all = [-1], [record(number) for number in range(ROUNDS - 1)]
        store(post, *store_all)
        for number, revision in (*before, *order, *again):
            if revision is None:
                post.courier.record_arrived(record(number))
            else:
                post.courier.plan_arrived(plan_of(number).model_copy(update={"revision": revision}))
            ready.append(post.courier.ready)
        await settled()
        assert ready == sorted(ready), "an anchor that may be moved to is never taken back"
        assert post.courier.ready == ROUNDS - 1
        assert [post.courier.plan(number).revision for number in range(ROUNDS)] == [REVISIONS - 1] * ROUNDS
        key = post.send(plan_of(ROUNDS - 1))
        await settled()
        assert [sent for _, _, sent, _ in post.links.sent] == [key], "nothing of earlier rounds, and this once"
        fetched = [sha256 for _, sha256 in post.control.asked]
        assert len(fetched) == len(set(fetched)), "no update is fetched twice"

    with tempfile.TemporaryDirectory() as folder:
        with_post(Path(folder), test)
