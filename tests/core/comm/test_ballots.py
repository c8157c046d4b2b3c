"""Claims and ballots: what the first member of a plan decides, whatever is asked twice, late or wrong."""

import asyncio
import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.comm.api import Ballot, Batches, Verdict
from legion.comm.ballots import KEPT_STEPS, BallotBox, Claims, decide
from legion.comm.waiting import Changes
from legion.errors import PartInvalid, PeerLost

WORKERS = ("ann", "bob", "cyd")


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from(WORKERS), st.integers(0, 2)), max_size=60),
)
def test_claims_go_out_once_however_often_they_are_asked_for(count: int, asked: list[tuple[str, int]]) -> None:
    """Each worker asks for its next claim, and `repeats` times again as if the answer had been lost."""
    claims, serials, given_out = Claims(), dict.fromkeys(WORKERS, 0), []
    for worker, repeats in asked:
        answers = {claims.claim(worker, 4, serials[worker], count) for _ in range(repeats + 1)}
        assert len(answers) == 1
        given_out += answers
        serials[worker] += 1
    indices = [index for index in given_out if index is not None]
    assert indices == list(range(min(count, len(given_out))))
    assert given_out == indices + [None] * (len(given_out) - len(indices))


def test_the_next_step_begins_anew() -> None:
    claims = Claims()
    assert [claims.claim("ann", 7, serial, 2) for serial in range(3)] == [0, 1, None]
    assert claims.claim("bob", 8, 0, 2) == 0
    assert claims.claim("ann", 8, 0, 2) == 1
    with pytest.raises(PartInvalid, match="ann claims work of step 7 in step 8"):
        claims.claim("ann", 7, 3, 2)


def test_who_rests_is_told_while_something_is_left_to_claim() -> None:
    claims = Claims()
    assert claims.rest("ann", 3, 2) == {"ann"}
    assert claims.claim("bob", 3, 0, 2) == 0
    assert claims.rest("bob", 3, 2) == {"ann", "bob"}
    assert claims.rest("bob", 4, 2) == {"bob"}  # of this step
    assert [claims.claim("ann", 4, serial, 2) for serial in range(3)] == [0, 1, None]
    assert claims.rest("ann", 4, 2) == frozenset()
    with pytest.raises(PartInvalid):
        claims.rest("ann", 3, 2)


def test_steps_have_as_many_micro_batches_as_their_first_claim_says() -> None:
    claims = Claims()
    assert [claims.claim("ann", 1, serial, 1) for serial in range(2)] == [0, None]
    assert [claims.claim("bob", 2, serial, 2) for serial in range(3)] == [0, 1, None]
    with pytest.raises(PartInvalid, match="ann claims one of 3 micro-batches, step 2 has 2"):
        claims.claim("ann", 2, 0, 3)


@pytest.mark.parametrize("serial", [0, 2, 3, 17])
def test_a_serial_that_is_neither_the_last_nor_the_next_is_refused(serial: int) -> None:
    claims = Claims()
    claims.claim("ann", 0, 0, 9)
    claims.claim("ann", 0, 1, 9)
    if serial == 2:
        assert claims.claim("ann", 0, serial, 9) == 2
        return
    with pytest.raises(PartInvalid, match=f"ann makes claim {serial} after claim 1"):
        claims.claim("ann", 0, serial, 9)


def ballot(*indices: int, **changes: object) -> Ballot:
    """Micro-batches of 10 tokens, 4 of them in the step."""
    good = Ballot(True, Batches(indices, 10 * len(indices)), 4, loss_sum=1.5, norm_squared=0.25)
    return dataclasses.replace(good, **changes)  # type: ignore[arg-type]


COMPLETE = {"ann": ballot(0, 3), "bob": ballot(1), "cyd": ballot(2)}


def test_a_full_set_commits_with_everyones_sums() -> None:
    assert decide(COMPLETE) == Verdict(True, norm_squared=0.75, loss_sum=4.5, tokens=40)


def test_who_computed_nothing_votes_too() -> None:
    assert decide({"ann": ballot(0, 1, 2, 3), "bob": ballot()}).commit


def test_the_sums_do_not_depend_on_who_voted_first() -> None:
    ballots = {"ann": ballot(0, 3, norm_squared=1e16), "bob": ballot(1, norm_squared=1.0), "cyd": ballot(2)}
    verdicts = {decide(dict(order)) for order in itertools.permutations(ballots.items())}
    assert len(verdicts) == 1
    assert verdicts.pop().norm_squared == math.fsum((1e16, 1.0, 0.25))


TABLE = [
    ({"bob": ballot(1, ok=False, reason="out of memory")}, "out of memory"),
    ({"bob": ballot(1, ok=False)}, "bob could not finish the step"),
    ({"bob": ballot(1, norm_squared=math.nan)}, "bob reports a loss or gradient norm"),
    ({"bob": ballot(1, norm_squared=math.inf)}, "bob reports"),
    ({"cyd": ballot(2, loss_sum=math.nan)}, "cyd reports"),
    ({"cyd": ballot(2, loss_sum=-math.inf)}, "cyd reports"),
    ({"bob": ballot()}, "are not all of them once"),  # one is missing
    ({"bob": ballot(1, 2)}, "are not all of them once"),  # one twice
    ({"bob": ballot(0)}, "are not all of them once"),
    ({"bob": ballot(1, 4)}, "are not all of them once"),  # one too many
    ({"bob": ballot(1, batch_count=5)}, "are not all of them once"),  # another idea of the step
    # The cause before its consequence: who failed has no complete set of micro-batches either.
    ({"ann": ballot(0), "bob": ballot(1, ok=False, reason="disk full")}, "disk full"),
]


@pytest.mark.parametrize(("changed", "reason"), TABLE)
def test_anything_else_aborts_with_the_reason(changed: dict[str, Ballot], reason: str) -> None:
    verdict = decide(COMPLETE | changed)
    assert not verdict.commit
    assert reason in verdict.reason
    assert (verdict.norm_squared, verdict.loss_sum, verdict.tokens) == (0, 0, 0)


async def test_everyone_gets_the_verdict_once_all_have_voted() -> None:
    box = BallotBox(Changes(), frozenset(WORKERS))
    waits = [asyncio.ensure_future(box.vote(worker, 3, COMPLETE[worker])) for worker in ("cyd", "ann")]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    verdict = await box.vote("bob", 3, COMPLETE["bob"])
    assert verdict.commit
    assert [await wait for wait in waits] == [verdict] * 2


async def test_the_same_vote_again_is_the_same_vote() -> None:
    """The first answer was lost on the way: before the verdict, and after it."""
    box = BallotBox(Changes(), frozenset(("ann", "bob")))
    both = {"ann": ballot(0, 3), "bob": ballot(1, 2)}
    waits = [asyncio.ensure_future(box.vote("ann", 3, both["ann"])) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    verdict = await box.vote("bob", 3, both["bob"])
    assert verdict.commit
    assert verdict.tokens == 40
    assert [await wait for wait in waits] == [verdict] * 3
    assert await box.vote("ann", 3, both["ann"]) == verdict


async def test_another_vote_is_refused() -> None:
    box = BallotBox(Changes(), frozenset(("ann", "bob")))
    first = asyncio.ensure_future(box.vote("ann", 3, ballot(0)))
    await asyncio.sleep(0)
    with pytest.raises(PartInvalid, match="ann votes twice, differently, on step 3"):
        await box.vote("ann", 3, ballot(0, 1))
    first.cancel()


async def test_one_no_is_enough_at_once_and_for_those_who_vote_later() -> None:
    box = BallotBox(Changes(), frozenset(WORKERS))
    early = asyncio.ensure_future(box.vote("ann", 3, COMPLETE["ann"]))
    await asyncio.sleep(0)
    verdict = await box.vote("bob", 3, ballot(ok=False, reason="out of memory"))
    assert verdict == await early == await box.vote("cyd", 3, COMPLETE["cyd"])
    assert (verdict.commit, verdict.reason) == (False, "out of memory")


async def test_a_step_and_an_evaluation_of_the_same_number_are_two_votes() -> None:
    box = BallotBox(Changes(), frozenset(("ann",)))
    assert (await box.vote("ann", 3, ballot(0, 1, 2, 3))).loss_sum == 1.5
    evaluation = ballot(0, 1, 2, 3, loss_sum=9.0, purpose="evaluation")
    assert (await box.vote("ann", 3, evaluation)).loss_sum == 9.0


async def test_verdicts_are_kept_for_a_while_only() -> None:
    box = BallotBox(Changes(), frozenset(("ann",)))
    for step in range(50):
        await box.vote("ann", step, ballot(0, 1, 2, 3, loss_sum=float(step)))
    assert len(box._verdicts) == KEPT_STEPS + 1
    assert (await box.vote("ann", 49 - KEPT_STEPS, ballot(0, 1, 2, 3))).loss_sum == 49 - KEPT_STEPS


async def test_a_failure_ends_the_wait_for_the_others() -> None:
    changes = Changes()
    box = BallotBox(changes, frozenset(WORKERS))
    wait = asyncio.ensure_future(box.vote("ann", 0, ballot(0)))
    await asyncio.sleep(0)
    changes.fail(PeerLost("bob is gone"))
    with pytest.raises(PeerLost, match="bob"):
        await wait
