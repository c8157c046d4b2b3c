"""A member's part in rounds: when its cluster contributes, what it names, and what anchors make of its weights."""

import hashlib

import numpy as np
import pytest
import torch

from legion.codec.api import AnyCodec, in_host_memory
from legion.codec.on_device import OnDevice
from legion.codec.registry import any_by_wire_id
from legion.ids import ClusterId
from legion.layout import CHUNK
from legion.outer.member import sending_order
from legion.rounds import Blocks, SpanPlan
from tests.core.outer.small_rounds import (
    MICRO_BATCHES,
    RUN,
    SHARES,
    STEPS,
    fragments_of,
    lease_of,
    participant_of,
    plan_of,
    worker_of,
)
from tests.core.outer.teams import TOKENS, World, blocks, names_of, some_work, the_work, train, world_of

A, B, C = sorted(SHARES)
FORMS = ["residual", "buffer"]


# Turns.


@pytest.mark.parametrize("cluster", sorted(SHARES))
def test_every_member_contributes_its_slice_after_h_steps(cluster: ClusterId) -> None:
    world = world_of(cluster)
    (team,) = world.teams
    before = team.weights
    train(team, STEPS - 1)
    assert names_of(team, 0) == []
    train(team, 1, seed=1)
    lease = lease_of(cluster, 0)
    assert the_work(team, 0) == (STEPS, STEPS * TOKENS, (blocks(lease.start, STEPS),))
    displacement = before - team.weights
    for rank, office in zip(team.layout.ranks, team.offices, strict=True):
        meeting = [span for span in range(len(world.plan.spans)) if fragments_of(world.plan, span, cluster, rank)]
        assert [part.key.span for part in office.sent] == meeting
        for part in office.sent:
            key = part.key
            assert (key.cluster, key.rank, key.run_id, key.round) == (cluster, rank, RUN, 0)
            assert (key.size_bytes, key.sha256) == (len(part.data), hashlib.sha256(part.data).hexdigest())
            fragments = fragments_of(world.plan, key.span, cluster, rank)
            expected = np.concatenate([displacement[f.flat.start : f.flat.stop] for f in fragments])
            values = np.empty(expected.size, np.float32)
            any_by_wire_id(key.codec).decode(memoryview(part.data), values)
            assert np.array_equal(values, expected)


@pytest.mark.parametrize("flush", [False, True])
def test_contributions_are_written_by_the_members_encoder(flush: bool) -> None:
    written = []

    def encoder(codec: AnyCodec) -> AnyCodec:
        written.append(codec.name)
        return OnDevice(codec, torch.device("cpu"))

    sent = []
    for chosen in (in_host_memory, encoder):
        world = world_of(C, codec="topk64", encoder=chosen)
        (team,) = world.teams
        for office in team.offices:
            office.plans[0] = world.plan.model_copy(update={"flush": flush})
        train(team, STEPS)
        sent.append([office.sent for office in team.offices])
    assert set(written) == {"int4" if flush else "topk64"}
    assert all(sent[0])
    assert sent[0] == sent[1]


@pytest.mark.parametrize("cluster", [A, C])
@pytest.mark.parametrize("steps", [1, STEPS - 1])
def test_when_one_member_finds_it_late_all_contribute_what_they_have(cluster: ClusterId, steps: int) -> None:
    (team,) = world_of(cluster).teams
    train(team, steps - 1)
    team.offices[-1].late = True
    train(team, 1)
    assert the_work(team, 0)[:2] == (steps, steps * TOKENS)
    assert len(names_of(team, 0)) == len({(key.rank, key.span) for key in names_of(team, 0)})
    train(team, 1)  # still late: of the next round, which has not begun
    assert len(names_of(team, 0)) == len({(key.rank, key.span) for key in names_of(team, 0)})


def test_nothing_to_say_is_not_said_however_late() -> None:
    world = world_of(A)
    (team,) = world.teams
    world.offices[0].late = True
    team.cross(team.verdict(0))
    assert names_of(team, 0) == []


@pytest.mark.parametrize(("leased", "count", "steps"), [(4, 2, 2), (5, 2, 2), (2, 2, 1), (7, 3, 2)])
def test_a_lease_that_is_used_up_is_as_good_as_h_steps(leased: int, count: int, steps: int) -> None:
    world = world_of(C)
    (team,) = world.teams
    short = participant_of(C).model_copy(update={"blocks": Blocks(start=50, stop=50 + leased)})
    world.publish(plan_of(0, participants=[short]))
    for _ in range(steps):
        assert names_of(team, 0) == []
        assert team.step(count=count)
    assert the_work(team, 0) == (steps, steps * TOKENS, (Blocks(start=50, stop=50 + steps * count),))
    assert team.next_blocks(count) == lease_of(C, 1).start


def test_a_lease_too_short_for_a_step_is_not_touched() -> None:
    world = world_of(A)
    short = participant_of(A).model_copy(update={"blocks": Blocks(start=0, stop=MICRO_BATCHES - 1)})
    world.publish(plan_of(0, participants=[short]))
    assert world.teams[0].next_blocks() is None


@pytest.mark.parametrize("cluster", [A, C])
@pytest.mark.parametrize("early", [0, 3])
def test_at_most_h_steps_beyond_the_contribution(cluster: ClusterId, early: int) -> None:
    world = world_of(cluster)
    (team,) = world.teams
    train(team, STEPS - early - 1)
    team.offices[0].late = True
    train(team, 1)
    for office in team.offices:
        office.late = False
    assert team.next_blocks() == lease_of(cluster, 1).start
    train(team, STEPS)
    assert team.next_blocks() is None
    assert not team.step()
    team.wait()  # in vain
    assert [office.waited for office in team.offices] == [[1]] * len(team.offices)
    assert team.next_blocks() is None
    world.commit()
    world.make_ready()
    team.wait()
    # What was done ahead is a contribution at once, and its lease goes on where it was.
    assert the_work(team, 1) == (STEPS, STEPS * TOKENS, (blocks(lease_of(cluster, 1).start, STEPS),))
    assert team.next_blocks() == lease_of(cluster, 2).start


def test_without_overlap_nothing_is_done_ahead() -> None:
    world = world_of(B, overlap=False)
    (team,) = world.teams
    train(team, STEPS)
    assert team.next_blocks() is None
    world.commit()
    world.make_ready()
    team.wait()
    assert team.next_blocks() == lease_of(B, 1).start
    assert names_of(team, 1) == []


def test_steps_done_ahead_count_for_the_next_round() -> None:
    world = world_of(B)
    (team,) = world.teams
    train(team, STEPS + 1)
    world.commit()
    world.make_ready()
    train(team, 1)  # ends at the border
    assert (team.round, names_of(team, 1)) == (1, [])
    train(team, STEPS - 2)
    assert the_work(team, 1) == (STEPS, STEPS * TOKENS, (blocks(lease_of(B, 1).start, STEPS),))


def test_a_cluster_that_is_not_in_the_plan_waits() -> None:
    world = world_of(A, B)
    world.publish(plan_of(0, participants=[participant_of(A)]))
    assert world.teams[1].next_blocks() is None
    assert [member.micro_batches for member in world.teams[1].members] == [1, 1]
    assert world.teams[0].members[0].micro_batches == MICRO_BATCHES
    train(world.teams[0], STEPS)
    world.commit()
    world.make_ready()
    world.teams[1].wait()
    assert world.teams[1].next_blocks() == lease_of(B, 1).start


def test_after_the_last_contribution_nothing_is_left_to_do() -> None:
    world = world_of(A, C, rounds=1)
    for seed, team in enumerate(world.teams):
        train(team, STEPS, seed)
        assert team.next_blocks() is None
    world.commit()
    world.make_ready()
    for team in world.teams:
        assert not team.members[0].complete
        team.wait()
        assert all(member.complete for member in team.members)
        assert team.next_blocks() is None
        assert np.array_equal(team.weights, team.anchor)
        assert names_of(team, 1) == []
        assert team.members[0].micro_batches == 1
    assert np.array_equal(world.teams[0].weights, world.teams[1].weights)


def test_the_slowest_member_decides_when_all_move() -> None:
    world = world_of(C)
    (team,) = world.teams
    train(team, STEPS)
    world.commit()
    for office in team.offices[:-1]:
        office.ready = 1
    train(team, 1)
    assert team.round == 0
    world.make_ready()
    train(team, 1)
    assert team.round == 1


# Where the run stands.


def test_where_the_run_stands() -> None:
    """For the schedule: every round H steps, whatever this cluster makes of them."""
    world = world_of(A)
    (team,) = world.teams
    (member,) = team.members
    seen = []
    for _ in range(2 * STEPS):
        seen.append(member.at)
        train(team, 1)
    assert seen == list(range(2 * STEPS))
    world.commit()
    world.make_ready()
    team.wait()
    assert member.at == 2 * STEPS  # what was done ahead has been contributed


def test_who_contributes_early_or_late_stays_within_the_round() -> None:
    world = world_of(A)
    (team,) = world.teams
    (member,) = team.members
    team.offices[0].late = True
    train(team, 1)
    assert member.at == STEPS  # contributed after one step: the next is of the next round
    team.offices[0].late = False
    world.commit()
    world.make_ready()
    train(team, 1)
    assert (team.round, member.at) == (1, STEPS + 1)
    # More steps than a round has, as after a round that was missed: the schedule waits at its last step.
    train(team, 1)
    assert member.at == STEPS + 2
    world.publish(plan_of(1, participants=[participant_of(A, 1)], steps=2))
    assert member.at == STEPS + 1


# Rounds that were missed.


def owing(world: World, number: int, *rounds: int) -> None:
    """Publish the plan of a round that knows of leases for rounds before."""
    participants = [
        participant_of(team.cluster, number).model_copy(
            update={"earlier": tuple(lease_of(team.cluster, before) for before in rounds)}
        )
        for team in world.teams
    ]
    world.publish(plan_of(number, participants=participants))


@pytest.mark.parametrize("form", FORMS)
def test_a_missed_round_goes_with_the_next(form: str) -> None:
    """A was there, C was asleep with some steps done: round 0 is committed without it."""
    world = world_of(A, C, feedback=form)
    a, c = world.teams
    start = c.weights
    train(a, STEPS, seed=1)
    train(c, 2, seed=2)
    record = world.commit()
    assert [i.cluster for i in record.spans[0].included] == [A]
    owing(world, 1, 0)
    world.make_ready()
    train(c, 2, seed=3)
    first, second = (blocks(lease_of(C, number).start, steps) for number, steps in ((0, 3), (1, 1)))
    assert c.round == 1
    assert the_work(c, 1) == (4, 4 * TOKENS, (first, second))
    done = some_work(200) + some_work(201) + some_work(300) + some_work(301)
    assert np.allclose(c.weights - c.anchor, -done, atol=1e-6)
    world.commit()
    world.make_ready()
    c.wait()
    a_work = sum(some_work(100 + number) for number in range(STEPS))
    assert np.allclose(c.anchor, start - a_work - done, atol=1e-5)
    assert np.allclose(c.weights, c.anchor, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_contribution_that_came_too_late_is_named_again(form: str) -> None:
    world = world_of(A, C, feedback=form)
    a, c = world.teams
    for team, seed in ((a, 1), (c, 2)):
        train(team, STEPS, seed)
    world.commit(*((C, span) for span in range(2)))
    owing(world, 1, 0)
    world.make_ready()
    for team, seed in ((a, 3), (c, 4)):
        train(team, STEPS, seed)
    both = (blocks(lease_of(C, 0).start, STEPS), blocks(lease_of(C, 1).start, STEPS))
    assert the_work(c, 1) == (2 * STEPS, 2 * STEPS * TOKENS, both)
    assert the_work(a, 1) == (STEPS, STEPS * TOKENS, (blocks(lease_of(A, 1).start, STEPS),))
    inclusions = {i.cluster: i for i in world.commit().spans[0].included}
    assert inclusions[C].tokens == 2 * inclusions[A].tokens
    world.make_ready()
    for team in world.teams:
        team.wait()
    assert np.array_equal(a.anchor, c.anchor)
    for team in world.teams:
        # Sent in fp32: nothing waits any more.
        assert np.allclose(team.weights, team.anchor, atol=1e-6)
    owing(world, 2, 0, 1)
    train(c, STEPS, seed=5)
    assert the_work(c, 2) == (STEPS, STEPS * TOKENS, (blocks(lease_of(C, 2).start, STEPS),))


def test_a_span_that_counted_is_not_named_again_and_one_that_did_not_is() -> None:
    world = world_of(A, C)
    for seed, team in enumerate(world.teams):
        train(team, STEPS, seed)
    world.commit((C, 1))
    owing(world, 1, 0)
    world.make_ready()
    c = world.teams[1]
    train(c, STEPS)
    steps = {key.span: key.steps for key in names_of(c, 1)}
    assert steps == {0: STEPS, 1: 2 * STEPS}


def test_blocks_that_the_plan_does_not_know_to_be_ours_are_not_named() -> None:
    """A reducer would refuse the part; the work itself goes with it all the same."""
    world = world_of(A, C)
    for seed, team in enumerate(world.teams):
        train(team, STEPS, seed)
    world.commit((C, 0), (C, 1))
    world.make_ready()
    c = world.teams[1]
    train(c, STEPS)
    assert the_work(c, 1) == (2 * STEPS, 2 * STEPS * TOKENS, (blocks(lease_of(C, 1).start, STEPS),))
    assert {i.cluster for i in world.commit().spans[0].included} == {C}


def test_parts_go_to_every_reducer_in_turn_and_first_where_nobody_else_begins() -> None:
    """As in a round dance: in each layer all reducers are served, and every member begins at another one."""
    workers = [worker_of(cluster, rank) for cluster, shares in SHARES.items() for rank in range(len(shares))]
    plan = plan_of(span_count=2)
    spans = tuple(
        SpanPlan(start=0, stop=CHUNK, reducers=(workers[span // 2 % len(workers)],))
        for span in range(4 * len(workers))  # two for a worker, side by side
    )
    plan = plan.model_copy(update={"spans": spans})
    firsts = []
    for me in workers:
        order = sending_order(plan, me)
        assert sorted(order) == list(range(len(spans)))
        reducers = [plan.reducer(span) for span in order]
        for layer in range(4):
            assert sorted(reducers[layer * len(workers) :][: len(workers)]) == sorted(workers)
        for worker in workers:
            mine = [span for span in order if plan.reducer(span) == worker]
            assert mine == sorted(mine)
        firsts.append(reducers[0])
        assert reducers[len(workers) - 1] == me  # what is not sent at all is encoded last
    assert sorted(firsts) == sorted(workers)
