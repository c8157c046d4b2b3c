"""What anchors make of a member's weights, in both forms of feedback, and how a newcomer gets to one."""

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest

from legion import digest
from legion.codec.registry import any_by_wire_id
from legion.ids import ClusterId, Rank
from legion.outer.member import Place, RoundMember
from tests.core.outer.small_rounds import (
    RUN,
    SHARES,
    STEPS,
    TOTAL,
    participant_of,
    plan_of,
)
from tests.core.outer.teams import TOKENS, MemoryOffice, Team, names_of, some_work, the_work, train, world_of

A, B, C = sorted(SHARES)
FORMS = ["residual", "buffer"]


# What anchors make of the weights.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("codec", "update"), [("none", "none"), ("int8", "int4"), ("onebit", "int8"), ("topk64", "bf16")]
)
def test_all_clusters_have_the_same_anchors(form: str, momentum: float, codec: str, update: str) -> None:
    rounds = 4
    config: dict[str, Any] = {"feedback": form, "update_codec": update, "outer_momentum": momentum, "outer_lr": 0.7}
    world = world_of(A, B, C, rounds=rounds, codec=codec, **config)
    world.offices[0].name_of_codec = "int2"  # senders need not agree
    for number, ahead in zip(range(rounds), itertools.cycle((0, 2, STEPS)), strict=False):
        for seed, team in enumerate(world.teams):
            while names_of(team, number) == []:
                train(team, 1, seed + 10 * number)
            for _ in range(ahead if number + 1 < rounds else 0):
                train(team, 1, seed + 10 * number + 5)
        world.commit()
        world.make_ready()
        for team in world.teams:
            team.wait()
            assert team.round == number + 1
        first, *others = (team.anchor for team in world.teams)
        assert all(np.array_equal(first, other) for other in others)
        alone = world.teams[0].offices[0].roots[-1]
        assert alone.root == digest.root(digest.leaves(first))
        for team in world.teams:
            for rank, office in zip(team.layout.ranks, team.offices, strict=True):
                root = digest.root(digest.leaves(team.slice_of(rank, first)))
                report = office.roots[-1]
                assert (report.round, report.cluster, report.rank, report.root) == (
                    number + 1,
                    team.cluster,
                    rank,
                    root,
                )
    assert all(member.complete for team in world.teams for member in team.members)


@pytest.mark.parametrize("form", FORMS)
def test_progress_made_meanwhile_is_kept(form: str) -> None:
    world = world_of(A, B, feedback=form)
    for seed, team in enumerate(world.teams, start=1):
        train(team, STEPS, seed)
    train(world.teams[1], 2, seed=7)
    world.commit()
    world.make_ready()
    for team in world.teams:
        team.wait()
    a, b = world.teams
    assert np.array_equal(a.anchor, b.anchor)
    assert np.allclose(a.weights, a.anchor, atol=1e-6)
    assert np.allclose(b.weights, b.anchor - some_work(700) - some_work(701), atol=1e-6)


@pytest.mark.parametrize("codec", ["onebit", "topk64", "int4"])
def test_what_was_not_sent_waits_where_the_configuration_says(codec: str) -> None:
    worlds = {form: world_of(A, feedback=form, codec=codec, decay=1.0) for form in FORMS}
    for world in worlds.values():
        train(world.teams[0], STEPS)
        world.commit()
        world.make_ready()
        world.teams[0].wait()
    residual, buffer = (worlds[form].teams[0] for form in FORMS)
    assert np.array_equal(residual.anchor, buffer.anchor)
    assert np.allclose(buffer.weights, buffer.anchor, atol=1e-6)
    waiting = residual.anchor - residual.weights
    assert np.abs(waiting).max() > 1e-3
    # The next contribution of either stands for the same work.
    for team in (residual, buffer):
        train(team, STEPS, seed=3)
    for one, other in zip(residual.offices[0].sent, buffer.offices[0].sent, strict=True):
        values = []
        for part in (one, other):
            decoded = np.empty(len(worlds["buffer"].plan.spans[part.key.span].bounds), np.float32)
            any_by_wire_id(part.key.codec).decode(memoryview(part.data), decoded)
            values.append(decoded)
        assert np.mean(np.abs(values[0] - values[1]) > 1e-3) < 0.01  # roundings tip a few values at a level's border


@pytest.mark.parametrize("cluster", [A, C])
def test_a_flush_makes_the_anchor_of_local_weights(cluster: ClusterId) -> None:
    world = world_of(cluster, codec="onebit", rounds=4)
    (team,) = world.teams
    train(team, STEPS)
    world.commit()
    world.plan_changes = {"flush": True}
    world.open()
    world.make_ready()
    team.wait()
    assert np.abs(team.weights - team.anchor).max() > 1e-3
    train(team, STEPS, seed=1)
    train(team, 1, seed=2)
    world.commit()
    world.make_ready()
    team.wait()
    assert np.allclose(team.weights, team.anchor - some_work(200), atol=1e-6)


@pytest.mark.parametrize(
    ("codec", "flushed"),
    [("onebit", "int4"), ("topk64", "int4"), ("int2", "int4"), ("int4", "int4"), ("int8", "int8"), ("none", "none")],
)
def test_a_flush_is_dense(codec: str, flushed: str) -> None:
    world = world_of(A, codec=codec)
    world.publish(plan_of(0, participants=[participant_of(A)], flush=True))
    train(world.teams[0], STEPS)
    assert {any_by_wire_id(key.codec).name for key in names_of(world.teams[0], 0)} == {flushed}


def test_the_anchor_is_shown_and_hidden_again() -> None:
    (team,) = world_of(C).teams
    before = team.weights
    train(team, 2)
    trained = team.weights
    assert np.array_equal(team.anchor, before)
    assert np.array_equal(team.weights, trained)
    with contextlib.suppress(RuntimeError), team.members[0].showing_anchor():
        assert np.array_equal(team.slices[0], team.slice_of(Rank(0), before))
        raise RuntimeError("in the middle")
    assert np.array_equal(team.weights, trained)


# Coming in.


def test_a_newcomer_comes_in_at_its_round() -> None:
    """From an older anchor, by the log, to the anchor that the others have."""
    world = world_of(A, B)
    theta = world.teams[0].weights
    late = Team(C, world.config, theta, rounds=4)
    for number in range(2):
        for seed, team in enumerate(world.teams):
            train(team, STEPS, seed + 10 * number)
        world.commit()
        world.make_ready()
        for team in world.teams:
            team.wait()
    world.teams.append(late)
    world.open()
    for office in late.offices:
        office.plans = dict(world.offices[0].plans) | {2: world.plan}
        office.records, office.blobs = dict(world.offices[0].records), world.offices[0].blobs
        office.ready = 2
    entered = [member.enter(2) for member in late.members]
    assert entered == [True] * len(late.members)
    assert [office.waited for office in late.offices] == [[2]] * len(late.offices)
    assert late.round == 2
    assert np.array_equal(late.anchor, world.teams[0].anchor)
    assert np.array_equal(late.weights, late.anchor)
    assert [office.roots[-1].round for office in late.offices] == [2] * len(late.offices)
    train(late, STEPS)
    assert the_work(late, 2)[:2] == (STEPS, STEPS * TOKENS)


def test_who_is_told_to_stop_while_waiting_to_come_in_stays_where_it_was() -> None:
    office = MemoryOffice(ready=-1)
    theta = np.zeros(TOTAL, np.float32)
    team = Team(A, world_of(A).config, theta, rounds=4)
    member = RoundMember(world_of(A).config, Place(RUN, A, Rank(0), team.layout, 4), theta, 0, office)
    assert not member.enter(3)
    assert (office.waited, member.anchor, office.roots) == ([3], 0, [])
