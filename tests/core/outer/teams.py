"""Clusters of round members without engines or network: they take steps, vote, contribute and apply, by the book."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from legion.codec.api import AnyCodec, Encoder, Floats, in_host_memory
from legion.codec.registry import any_by_name
from legion.comm.api import Verdict, Work
from legion.comm.bridge import DoneWork
from legion.config import RoundsConfig
from legion.ids import ClusterId, Rank
from legion.layout import Bounds, Layout
from legion.outer.member import Outgoing, Place, RoundMember
from legion.outer.reducer import Closing, SpanReducer
from legion.rounds import Blocks, PartKey, RootReport, RoundPlan, RoundRecord
from tests.core.outer.small_rounds import (
    MICRO_BATCHES,
    RUN,
    SHARES,
    STEPS,
    TOTAL,
    UNITS,
    participant_of,
    plan_of,
    record_of,
    worker_of,
)

WHOLE = Bounds(0, TOTAL)
T = TypeVar("T")
TOKENS = 100  # of a step


@dataclass
class MemoryOffice:
    """See `member.Office`: whatever the test puts in it is here at once, and nobody waits."""

    ready: int = 0
    late: bool = False
    name_of_codec: str = "none"
    plans: dict[int, RoundPlan] = field(default_factory=dict)
    records: dict[int, RoundRecord] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    sent: list[Outgoing] = field(default_factory=list)
    roots: list[RootReport] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)

    def plan(self, round_number: int) -> RoundPlan:
        return self.plans[round_number]

    def record(self, round_number: int) -> RoundRecord:
        return self.records[round_number]

    def blob(self, sha256: str) -> memoryview:
        return memoryview(self.blobs[sha256])

    def codec(self) -> AnyCodec:
        return any_by_name(self.name_of_codec)

    def send(self, parts: Sequence[Outgoing]) -> None:
        self.sent += parts

    def applied(self, report: Callable[[], RootReport]) -> Work[None]:
        self.roots.append(report())
        return DoneWork(None)

    def wait_ready(self, anchor: int) -> None:
        self.waited.append(anchor)


class Team:
    """One cluster. Its members vote after every step, and every decision of theirs is compared."""

    def __init__(
        self,
        cluster: ClusterId,
        config: RoundsConfig,
        theta: Floats,
        *,
        rounds: int,
        anchor: int = 0,
        encoder: Encoder = in_host_memory,
    ) -> None:
        self.cluster = cluster
        self.layout = Layout(UNITS, SHARES[cluster])
        self.offices = [MemoryOffice(ready=anchor) for _ in self.layout.ranks]
        self.slices = [self.slice_of(rank, theta) for rank in self.layout.ranks]
        self.members = [
            RoundMember(
                config,
                Place(RUN, cluster, rank, self.layout, rounds),
                self.slices[rank],
                anchor,
                office,
                encoder=encoder,
            )
            for rank, office in zip(self.layout.ranks, self.offices, strict=True)
        ]

    def slice_of(self, rank: Rank, theta: Floats) -> Floats:
        return np.concatenate([theta[f.flat.start : f.flat.stop] for f in self.layout.fragments(rank, WHOLE)])

    @property
    def weights(self) -> Floats:
        """Of the whole model, as it is trained here."""
        whole = np.full(TOTAL, np.nan, np.float32)
        for rank in self.layout.ranks:
            for f in self.layout.fragments(rank, WHOLE):
                whole[f.flat.start : f.flat.stop] = self.slices[rank][f.slice_offset :][: len(f.flat)]
        return whole

    @property
    def anchor(self) -> Floats:
        """theta_round as its members have it."""
        with contextlib.ExitStack() as shown:
            for member in self.members:
                shown.enter_context(member.showing_anchor())
            return self.weights

    @property
    def round(self) -> int:
        return self.same(member.anchor for member in self.members)

    def same(self, answers: Iterable[T]) -> T:
        """What every member says, which must be the same."""
        first, *others = answers
        assert all(other == first for other in others), f"members disagree: {[first, *others]}"
        return first

    def next_blocks(self, count: int = MICRO_BATCHES) -> int | None:
        return self.same(member.next_blocks(count) for member in self.members)

    def step(self, work: Floats | None = None, *, count: int = MICRO_BATCHES, tokens: int = TOKENS) -> bool:
        """One step that subtracts `work` from the weights; False when there is nothing to do but wait."""
        if self.next_blocks(count) is None:
            return False
        for member in self.members:
            member.took(count)
        verdict = self.verdict(tokens)
        at_border = self.same(member.reached(verdict) for member in self.members)
        for rank, values in enumerate(self.slices if work is not None else ()):
            values -= self.slice_of(Rank(rank), work)
        if at_border:
            self.cross(verdict)
        return True

    def wait(self) -> None:
        """The vote of a cluster that has nothing to do."""
        for member in self.members:
            member.wait()
        self.cross(self.verdict(0))

    def verdict(self, tokens: int) -> Verdict:
        ready, late = min(m.ready for m in self.members), any(m.late for m in self.members)
        return Verdict(commit=True, tokens=tokens, ready=ready, late=late)

    def cross(self, verdict: Verdict) -> None:
        for member in self.members:
            member.cross(verdict)

    def sent(self, round_number: int) -> dict[Rank, list[PartKey]]:
        """The names of what each member has sent for a round."""
        return {
            rank: [part.key for part in office.sent if part.key.round == round_number]
            for rank, office in zip(self.layout.ranks, self.offices, strict=True)
        }


@dataclass
class World:
    """Teams, and what reducers and coordinator do between them. A round is open from the start."""

    config: RoundsConfig
    teams: list[Team]
    rounds: int
    plan_changes: dict[str, Any] = field(default_factory=dict)
    plan: RoundPlan = field(init=False)
    records: list[RoundRecord] = field(default_factory=list)
    residuals: dict[int, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        number = len(self.records)
        self.plan = plan_of(
            number, participants=[participant_of(team.cluster, number) for team in self.teams], **self.plan_changes
        )
        self.publish(self.plan)

    def publish(self, plan: RoundPlan) -> None:
        self.plan = plan
        for office in self.offices:
            office.plans[plan.round] = plan

    @property
    def offices(self) -> list[MemoryOffice]:
        return [office for team in self.teams for office in team.offices]

    def commit(self, *lost: tuple[ClusterId, int]) -> RoundRecord:
        """Reduce what was sent for the open round, but for the parts of `lost` (cluster, span); open the next."""
        plan, reports = self.plan, []
        for span in range(len(plan.spans)):
            reducer = SpanReducer(plan, span, 0, closing=Closing(0.6, 1.0), mean_over="participants", opened_s=0.0)
            for team in self.teams:
                for rank, office in enumerate(team.offices):
                    for part in office.sent:
                        named = part.key.round == plan.round and part.key.span == span
                        if named and (team.cluster, span) not in lost:
                            reducer.offer(worker_of(team.cluster, rank), part.key, part.data)
            codec = any_by_name(self.config.update_codec)
            blob, report, self.residuals[span] = reducer.reduce(self.residuals.get(span), codec)
            for office in self.offices:
                office.blobs[report.digest] = blob
            reports.append(report)
        record = record_of(plan, reports)
        self.records.append(record)
        for office in self.offices:
            office.records[record.round] = record
        if len(self.records) < self.rounds:
            self.open()
        return record

    def make_ready(self) -> None:
        """Everything that was committed is with everybody."""
        for office in self.offices:
            office.ready = len(self.records)


def world_of(
    *clusters: str, rounds: int = 4, codec: str = "none", encoder: Encoder = in_host_memory, **config: Any
) -> World:
    """Of fp32 unless `config` says otherwise."""
    settings = RoundsConfig.model_validate({"steps": STEPS, "update_codec": "none"} | config)
    theta = np.random.default_rng(5).normal(size=TOTAL).astype(np.float32)
    teams = [Team(ClusterId(cluster), settings, theta, rounds=rounds, encoder=encoder) for cluster in clusters]
    world = World(settings, teams, rounds)
    for office in world.offices:
        office.name_of_codec = codec
    return world


def some_work(seed: int) -> Floats:
    return (np.random.default_rng(seed).normal(size=TOTAL) * 0.01).astype(np.float32)


def names_of(team: Team, round_number: int) -> list[PartKey]:
    return [key for keys in team.sent(round_number).values() for key in keys]


def the_work(team: Team, round_number: int) -> tuple[int, int, tuple[Blocks, ...]]:
    """Steps, tokens and blocks that the cluster's parts name; every part the same."""
    return team.same((key.steps, key.tokens, key.blocks) for key in names_of(team, round_number))


def blocks(start: int, steps: int) -> Blocks:
    return Blocks(start=start, stop=start + steps * MICRO_BATCHES)


def train(team: Team, steps: int, seed: int = 0) -> None:
    for number in range(steps):
        assert team.step(some_work(100 * seed + number))
