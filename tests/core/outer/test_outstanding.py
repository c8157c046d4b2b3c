"""Over a restart nothing is lost and nothing doubled: applied work + waiting work = work done."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion.codec.api import Floats
from legion.ids import ClusterId, Rank
from legion.layout import Bounds
from tests.core.outer.restarts import by_checkpoint, by_updates, enter, keep, thetas
from tests.core.outer.small_rounds import SHARES, STEPS, TOTAL
from tests.core.outer.teams import Team, World, some_work, world_of

ROUNDS = 60
FORMS = ["residual", "buffer"]
A, B = ClusterId("a"), ClusterId("b")
NAMES = [ClusterId(f"z{number}") for number in range(40)]


@pytest.fixture(autouse=True, scope="module")
def _more_clusters() -> Iterator[None]:
    """Names for those who come back: even ones are laid out like a, odd ones like b."""
    added = {name: SHARES[A if number % 2 == 0 else B] for number, name in enumerate(NAMES)}
    SHARES.update(added)
    yield
    for name in added:
        del SHARES[name]


def names_like(cluster: ClusterId) -> Iterator[ClusterId]:
    return itertools.islice(NAMES, 0 if cluster == A else 1, None, 2)


def waiting_of(team: Team) -> Floats:
    """What no anchor has: below the anchor, and in buffers, but for what a pending part has in both."""
    found = np.zeros(TOTAL, np.float64) + team.anchor - team.weights
    for rank, member in enumerate(team.members):
        for bounds, waits in member.state(final=True)[1].items():
            extra = np.zeros(sum(len(f.flat) for f in team.layout.fragments(Rank(rank), bounds)))
            extra += waits.buffer if waits.buffer.size else 0
            if waits.buffer.size and waits.moved.size:
                extra -= waits.moved
            at = 0
            for f in team.layout.fragments(Rank(rank), bounds):
                found[f.flat.start : f.flat.stop] += extra[at : at + len(f.flat)]
                at += len(f.flat)
    return found


Act = Literal["step", "train", "round", "commit", "lose", "news", "updates", "checkpoint"]
ACTS: list[Act] = ["step", "train", "round", "commit", "lose", "news", "updates", "checkpoint"]


class Life:
    """One cluster alone in its run: every anchor is the work that entered it, so nothing can hide in a mean."""

    def __init__(self, cluster: ClusterId, feedback: str, codec: str, folder: Path) -> None:
        self.world: World = world_of(cluster, rounds=ROUNDS, codec=codec, feedback=feedback, decay=1.0)
        self.theta_0 = self.world.teams[0].weights
        self.names = names_like(cluster)
        self.done = np.zeros(TOTAL, np.float64)
        self.seeds = itertools.count()
        self.codec = codec
        self.folder = folder

    @property
    def team(self) -> Team:
        return self.world.teams[0]

    def act(self, act: Act) -> None:
        match act:
            case "step":
                self.step()
            case "train":
                for _ in range(STEPS):
                    self.step()
            case "round":
                for _ in range(STEPS):
                    self.step()
                self.world.commit()
                self.world.make_ready()
            case "commit":
                self.world.commit()
            case "lose":
                self.world.commit((self.team.cluster, 0))
            case "news":
                self.world.make_ready()
            case "updates" | "checkpoint":
                self.restart(act)

    def step(self) -> None:
        work = some_work(next(self.seeds))
        if self.team.step(work):
            self.done += work
        else:
            self.team.wait()

    def restart(self, way: str) -> None:
        before, name = self.team, next(self.names)
        files = keep(before, self.folder)
        if way == "updates":
            after = by_updates(files, name, self.world.config, rounds=ROUNDS)
        else:
            at = before.round + (len(self.world.records) - before.round + 1) // 2
            theta = thetas(self.theta_0, self.world, before.offices[0].blobs)[at]
            missed = self.world.records[before.round : at]
            after = by_checkpoint(files, name, self.world.config, theta, at, missed, rounds=ROUNDS)
        for office in after.offices:
            office.name_of_codec = self.codec
        enter(self.world, after, before)

    def balance(self) -> float:
        """Of the books: what was done, less what entered anchors and what waits."""
        entered = self.theta_0.astype(np.float64) - self.team.anchor
        return float(np.abs(self.done - entered - waiting_of(self.team)).max())


@pytest.mark.parametrize("feedback", FORMS)
@pytest.mark.parametrize("codec", ["none", "int4", "topk64"])
@pytest.mark.parametrize("cluster", [A, B])
@settings(max_examples=12, deadline=None)
@given(acts=st.lists(st.sampled_from(ACTS), max_size=14))
def test_applied_and_waiting_work_is_work_done(cluster: ClusterId, feedback: str, codec: str, acts: list[Act]) -> None:
    with TemporaryDirectory() as folder:
        life = Life(cluster, feedback, codec, Path(folder))
        for act in acts:
            life.act(act)
            assert life.balance() < 1e-4, act
        life.act("news")
        for _ in range(STEPS + 1):
            life.step()  # nobody is stuck
        assert life.balance() < 1e-4


@pytest.mark.parametrize("feedback", FORMS)
@pytest.mark.parametrize("codec", ["none", "int4", "topk64"])
@pytest.mark.parametrize("steps", [2, STEPS, STEPS + 2])
@pytest.mark.parametrize("lost", [(), ((A, 0),), ((A, 0), (A, 1))])
@pytest.mark.parametrize("flush", [False, True])
def test_who_comes_back_has_what_one_has_who_was_never_away(
    tmp_path: Path, feedback: str, codec: str, steps: int, lost: tuple[tuple[ClusterId, int], ...], flush: bool
) -> None:
    """Stopped before, at and after its contribution, which is or is not included: both ways back, against no way."""
    world = world_of("a", "b", rounds=8, codec=codec, feedback=feedback, decay=0.5)
    team, other = world.teams
    theta_0 = team.weights
    train_and_commit(world)
    world.plan_changes = {"flush": flush}
    world.open()
    train(team, steps, 50)
    train(other, STEPS, 70)
    files = keep(team, tmp_path)
    world.commit(*lost)
    follow(world, other)
    world.teams.remove(team)
    world.plan_changes = {}
    world.open()
    train_and_commit(world)
    for office in team.offices:
        office.plans, office.records = dict(other.offices[0].plans), dict(other.offices[0].records)
        office.blobs, office.ready = dict(other.offices[0].blobs), 3
    for member in team.members:
        member.enter(3)
    names = names_like(A)
    restored = by_updates(files, next(names), world.config, rounds=8)
    anchors = thetas(theta_0, world, other.offices[0].blobs)
    cut = by_checkpoint(files, next(names), world.config, anchors[3], 3, world.records[1:3], rounds=8)
    for back in (restored, cut):
        enter(world, back)
        world.teams.remove(back)
        assert back.round == team.round == 3
        assert np.array_equal(back.anchor, team.anchor)
        assert np.allclose(waiting_of(back), waiting_of(team), atol=2e-6)
    assert np.array_equal(restored.weights, team.weights)


def train(team: Team, steps: int, seed: int) -> None:
    for number in range(steps):
        assert team.step(some_work(seed + number))


def train_and_commit(world: World) -> None:
    for place, team in enumerate(world.teams):
        train(team, STEPS, 10 * place)
    world.commit()
    for team in world.teams:
        follow(world, team)


def follow(world: World, team: Team) -> None:
    for office in team.offices:
        office.ready = len(world.records)
    team.wait()


@pytest.mark.parametrize("feedback", FORMS)
@pytest.mark.parametrize("way", ["updates", "checkpoint"])
def test_work_that_was_sent_after_the_state_was_kept_is_not_sent_again(tmp_path: Path, feedback: str, way: str) -> None:
    """The engine was killed later: what its file calls waiting went with later contributions, where these came in."""
    world = world_of("a", rounds=8, codec="none", feedback=feedback)
    (team,) = world.teams
    theta_0 = team.weights
    train_and_commit(world)
    train(team, 2, 30)
    files = keep(team, tmp_path, final=False)
    train(team, STEPS - 2, 40)
    world.commit((A, 1))  # of span 0 alone
    name = next(names_like(A))
    if way == "updates":
        back = by_updates(files, name, world.config, rounds=8)
    else:
        theta = thetas(theta_0, world, team.offices[0].blobs)[2]
        back = by_checkpoint(files, name, world.config, theta, 2, world.records[1:], rounds=8)
    enter(world, back, team)
    gone, kept = (Bounds(span.start, span.stop) for span in world.plan.spans)
    waits = waiting_of(back)
    assert not waits[gone.start : gone.stop].any()
    sent = (some_work(30) + some_work(31))[kept.start : kept.stop]
    assert np.allclose(waits[kept.start : kept.stop], sent, atol=1e-6)


@pytest.mark.parametrize("feedback", FORMS)
def test_a_part_for_a_round_that_begins_anew_waits_again(tmp_path: Path, feedback: str) -> None:
    life = Life(A, feedback, "int4", tmp_path)
    life.act("train")
    life.act("updates")
    waits = life.team.members[0].state(final=True)[1]
    assert [span.pending for span in waits.values()] == [None] * len(life.world.plan.spans)
    life.act("round")
    assert all(span.inclusion(life.team.cluster) for span in life.world.records[0].spans)
    life.step()
    assert life.balance() < 1e-5


@pytest.mark.parametrize("feedback", FORMS)
@pytest.mark.parametrize("final", [True, False])
def test_what_the_log_does_not_tell_is_rather_lost_than_doubled(tmp_path: Path, feedback: str, final: bool) -> None:
    world = world_of("a", rounds=8, codec="none", feedback=feedback, decay=0.5)
    (team,) = world.teams
    theta_0 = team.weights
    train(team, STEPS + 1, 30)
    files = keep(team, tmp_path, final=final)
    world.commit()
    world.make_ready()
    theta = thetas(theta_0, world, team.offices[0].blobs)[1]
    back = by_checkpoint(files, next(names_like(A)), world.config, theta, 1, [], rounds=8)
    enter(world, back, team)
    expected = some_work(30 + STEPS) if final else np.zeros(TOTAL)
    assert np.allclose(waiting_of(back), expected, atol=1e-6), "the part counts as included"
