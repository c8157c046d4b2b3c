"""A cluster goes back to a restore point with other members: the work it had is neither lost nor counted twice."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from legion.comm.arrays import array_of
from legion.config import RunConfig, config_digest, merge
from legion.errors import CheckpointInvalid
from legion.ids import ClusterId, Epoch, Rank, Step
from legion.layout import Layout
from legion.outer.member import Place
from legion.outer.reshard import Files
from legion.outer.state import StateInfo, kept_spans, opened, write_state
from legion.zero.optimizers import Slice
from legion_client.engine.local_state import restored
from tests.core.outer.small_rounds import RUN, SHARES, UNITS, participant_of
from tests.core.outer.teams import MemoryOffice, Team, World, names_of, some_work, the_work, train, world_of

A, B = ClusterId("b"), ClusterId("a")  # of two members, and of one
FORMS = ("residual", "buffer")


def config_of(world: World, optimizer: str = "adamw") -> RunConfig:
    changes = {"cluster": {"policy": "fixed", "size": 2}, "rounds": {"steps": 4}, "optimizer": {"name": optimizer}}
    config = merge(RunConfig(), changes)
    return config.model_copy(update={"rounds": world.config})


def point(folder: Path, world: World, team: Team, optimizer: str = "adamw") -> list[Path]:
    """What its members write between two steps."""
    folder.mkdir()
    digest, paths = config_digest(config_of(world, optimizer)), []
    for rank, member in zip(team.layout.ranks, team.members, strict=True):
        former, waiting, anchor = member.state(final=False)
        info = StateInfo(
            run_id=RUN,
            config_digest=digest,
            units=UNITS,
            shares=team.layout.shares,
            rank=rank,
            cluster=former.cluster,
            sent_as=former.sent_as,
            anchor=former.anchor,
            final=False,
            steps=member.progress.steps,
            tokens=member.progress.tokens,
            optimizer_steps=7,
            momentum=anchor.momentum is not None,
            spans=kept_spans(waiting),
            standing=member.standing(Epoch(1), Step(7)),
        )
        moments = {
            name: np.full_like(anchor.values, number) for number, name in enumerate(("exp_avg", "exp_avg_sq"), 1)
        }
        slices = {"weights": team.slices[rank], "anchor": anchor.values} | moments
        if anchor.momentum is not None:
            slices["momentum"] = anchor.momentum
        write_state(folder / str(rank), info, slices, list(waiting.values()), lasting=False)
        paths.append(folder / str(rank))
    return paths


@contextmanager
def files_of(paths: Sequence[Path]) -> Iterator[Files]:
    with ExitStack() as stack:
        yield {Rank(rank): stack.enter_context(opened(path)) for rank, path in enumerate(paths)}


def regrouped(
    world: World,
    team: Team,
    paths: Sequence[Path],
    shares: tuple[int, ...],
    contributed: int,
    monkeypatch: Any,
    optimizer: str = "adamw",
) -> Team:
    """The team, of other members, in the place of the one before."""
    monkeypatch.setitem(SHARES, team.cluster, shares)
    after = Team(team.cluster, world.config, np.zeros(6 * 4096, np.float32), rounds=world.rounds)
    known = team.offices[0]
    for rank in after.layout.ranks:
        copied = MemoryOffice(known.ready, name_of_codec=known.name_of_codec)
        copied.plans, copied.records, copied.blobs = dict(known.plans), dict(known.records), dict(known.blobs)
        after.offices[rank] = copied
        place = Place(RUN, team.cluster, rank, Layout(UNITS, shares), world.rounds)
        state = Slice(*(torch.zeros(place.layout.owned(place.rank)) for _ in range(4)))
        with files_of(paths) as files:
            returned = restored(config_of(world, optimizer), place, files, contributed, state, copied)
        assert returned.goes_on is not None
        returned.goes_on()
        assert returned.optimizer_steps == 7
        assert np.array_equal(array_of(state.exp_avg), np.full_like(array_of(state.exp_avg), 1))
        assert np.array_equal(array_of(state.exp_avg_sq), np.full_like(array_of(state.exp_avg_sq), 2))
        after.slices[rank], after.members[rank] = array_of(state.weights), returned.member
    world.teams[world.teams.index(team)] = after
    return after


SHAPES = pytest.mark.parametrize("shares", [(1,), (3, 1), (1, 1, 2)])


@SHAPES
@pytest.mark.parametrize("form", FORMS)
def test_before_a_contribution_the_work_of_the_point_is_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, shares: tuple[int, ...]
) -> None:
    world = world_of(A, B, feedback=form)
    team = world.teams[0]
    train(team, 2, seed=1)
    before, paths = team.weights, point(tmp_path / "point", world, team)
    train(team, 1, seed=2)  # is lost
    after = regrouped(world, team, paths, shares, -1, monkeypatch)
    assert np.array_equal(after.weights, before)
    assert after.members[0].progress.steps == 2
    world.publish(world.plan.model_copy(update={"participants": reopened(world)}))
    while not names_of(after, 0):
        train(after, 1, seed=3)
    assert the_work(after, 0)[0] == 4, "two steps of before, and two again"


def reopened(world: World) -> Any:
    """The round's participants as they are now."""
    return tuple(participant_of(team.cluster, world.plan.round) for team in world.teams)


def contributed_since(world: World, folder: Path) -> tuple[Team, Any, list[Path]]:
    """A point after two steps, a contribution after four; the plan is broken after five."""
    team = world.teams[0]
    train(team, 2, seed=1)
    before, paths = team.weights, point(folder, world, team)
    train(team, 2, seed=2)
    assert names_of(team, 0)
    train(team, 1, seed=3)
    while not names_of(world.teams[1], 0):
        train(world.teams[1], 1, seed=9)
    return team, before, paths


@SHAPES
@pytest.mark.parametrize("form", FORMS)
def test_a_contribution_that_the_record_has_took_the_work_of_the_point_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, shares: tuple[int, ...]
) -> None:
    world = world_of(A, B, feedback=form)
    team, before, paths = contributed_since(world, tmp_path / "point")
    world.commit()
    after = regrouped(world, team, paths, shares, 0, monkeypatch)
    assert np.array_equal(after.weights, before)
    more = some_work(50)
    assert after.step(more)
    after_step = np.float32(before) - more
    assert np.array_equal(after.weights, after_step)
    world.make_ready()
    for office in after.offices:
        office.plans.update(world.teams[1].offices[0].plans)
        office.records.update(world.teams[1].offices[0].records)
        office.blobs.update(world.teams[1].offices[0].blobs)
        office.ready = 1
    after.wait()
    assert after.round == 1
    waits = after.anchor - after.weights
    assert np.allclose(waits, more, atol=1e-6), "only what was learned since waits"


@SHAPES
@pytest.mark.parametrize("form", FORMS)
def test_a_contribution_that_nobody_took_leaves_the_work_of_the_point_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, shares: tuple[int, ...]
) -> None:
    world = world_of(A, B, feedback=form, decay=1.0)
    team, before, paths = contributed_since(world, tmp_path / "point")
    start = team.anchor
    world.commit((A, 0), (A, 1))  # its parts did not all arrive
    after = regrouped(world, team, paths, shares, 0, monkeypatch)
    for office in after.offices:
        office.plans.update(world.teams[1].offices[0].plans)
        office.records.update(world.teams[1].offices[0].records)
        office.blobs.update(world.teams[1].offices[0].blobs)
        office.ready = 1
    after.wait()
    world.publish(world.plan.model_copy(update={"participants": reopened(world)}))
    for office in after.offices:
        office.plans[1] = world.plan
    train(after, 4, seed=6)
    fresh = after.anchor - after.weights
    sent = np.full_like(before, np.nan)
    for rank, office in zip(after.layout.ranks, after.offices, strict=True):
        for part in office.sent:
            span = world.plan.spans[part.key.span].bounds
            values, at = np.frombuffer(part.data, np.float32), 0
            for fragment in after.layout.fragments(rank, span):
                sent[fragment.flat.start : fragment.flat.stop] = values[at : at + len(fragment.flat)]
                at += len(fragment.flat)
    done = (start - before) + sum(some_work(600 + number) for number in range(4))
    assert np.allclose(sent, done, atol=1e-5), "what the point had goes with what was learned since"
    if form == "residual":
        assert np.allclose(fresh, done, atol=1e-5)
    assert the_work(after, 1)[0] == 2 + 4, "and is named with it"


@SHAPES
def test_one_bit_adam_keeps_its_moments_and_begins_no_second_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: tuple[int, ...]
) -> None:
    """`regrouped` compares the moments and the steps that they stand for."""
    world = world_of(A, B)
    team = world.teams[0]
    train(team, 2, seed=1)
    paths = point(tmp_path / "point", world, team, "onebit_adam")
    after = regrouped(world, team, paths, shares, -1, monkeypatch, "onebit_adam")
    assert after.members[0].progress.steps == 2


def test_a_point_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(A, B)
    paths = point(tmp_path / "point", world, world.teams[0])
    other = world_of(A, B, decay=0.5)
    with pytest.raises(CheckpointInvalid, match="not one of this run"):
        regrouped(other, other.teams[0], paths, (1,), -1, monkeypatch)
