"""A member's part in rounds, on the compute thread: when to contribute, what leaves, and how anchors enter its weights.

Everything that is decided here follows from the plans, the log and the cluster's verdicts, so that all members of a
cluster decide alike. What needs time, the sending and fetching, is the `Office`'s, on the event loop.
"""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from legion import digest
from legion.codec.api import AnyCodec, Encoder, Floats, in_host_memory
from legion.codec.auto import for_flush
from legion.codec.registry import any_by_name
from legion.comm.api import Verdict, Work
from legion.comm.bridge import DoneWork
from legion.config import RoundsConfig
from legion.ids import ClusterId, Epoch, Rank, RunId, Step, WorkerId
from legion.layout import Bounds, Fragment, Layout
from legion.outer import log
from legion.outer.contribution import Waiting
from legion.outer.outstanding import Former, Outstanding
from legion.outer.point import Account, Progress, Standing, standing_of
from legion.rounds import Blocks, Participant, PartKey, RootReport, RoundPlan, RoundRecord

logger = logging.getLogger(__name__)

ONLY_EPOCH: Final = Epoch(0)
EXACT: Final = any_by_name("none")
EASE_STEPS = 10  # of a newcomer, whose moments start at zero


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A part on its way to a span's reducer."""

    key: PartKey
    data: bytes


class Office(Protocol):
    """The loop's side of rounds. Reading is cheap and safe from any thread; nothing here waits but `wait_ready`."""

    @property
    def ready(self) -> int:
        """The newest anchor that can be moved to: its plan, and the updates up to it, are here."""

    @property
    def late(self) -> bool:
        """Time to contribute to the newest plan's round, however few steps that are."""

    def plan(self, round_number: int) -> RoundPlan: ...

    def record(self, round_number: int) -> RoundRecord: ...

    def blob(self, sha256: str) -> memoryview: ...

    def codec(self) -> AnyCodec:
        """What our uplink carries, for contributions that are no flush."""

    def send(self, parts: Sequence[Outgoing]) -> None: ...

    def applied(self, report: Callable[[], RootReport]) -> Work[None]:
        """`report` is made in a thread of its own: what it reads stays as it is until that is done."""

    def wait_ready(self, anchor: int) -> None:
        """Until `ready` is at least this, or the engine is to stop."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which part of the model this member has in a run."""

    run_id: RunId
    cluster: ClusterId
    rank: Rank
    layout: Layout
    rounds: int  # of the whole run
    epoch: Epoch = ONLY_EPOCH  # of the cluster's plan; 0 where it has one only


class RoundMember:
    """`weights` is the member's slice, changed in place. Implements `zero.engine.Border`."""

    def __init__(
        self,
        config: RoundsConfig,
        place: Place,
        weights: Floats,
        anchor: int,
        office: Office,
        momentum: Floats | None = None,
        encoder: Encoder = in_host_memory,
    ) -> None:
        """`weights` hold theta_anchor, unchanged; `momentum`: the outer one, at that anchor, if it is not zero.

        `encoder`: of contributions.
        """
        self._config = config
        self._place = place
        self._weights = weights
        self._office = office
        self._encoder = encoder
        if momentum is None and config.outer_momentum:
            momentum = np.zeros_like(weights)
        self._anchor = log.Anchor(weights.copy(), momentum)
        self._outer = log.OuterStep(config.outer_lr, config.outer_momentum)
        self._outstanding = Outstanding(config, place.cluster, weights, self._anchor.values, self._fragments)
        self._progress = Progress()
        self._owed: dict[Bounds, Account] = {}  # named for a span, and in no record of it yet: goes with the next
        self._contributed = anchor - 1  # the newest round that a contribution was made for
        self._reporting: Work[None] = DoneWork(None)
        self.anchor = anchor
        self.may_keep: Callable[[], bool] = lambda: False  # another restore point
        self.keeps = False  # the step that was just committed is one

    @property
    def progress(self) -> Progress:
        """For who keeps or shows it."""
        return self._progress

    # Over a restart: see Outstanding.

    def state(self, *, final: bool) -> tuple[Former, Mapping[Bounds, Waiting], log.Anchor]:
        return *self._outstanding.state(self.anchor, final=final), self._anchor

    def restore(self, former: Former, waiting: Mapping[Bounds, Waiting], missed: Sequence[RoundRecord] = ()) -> None:
        """Before `enter`; `weights` are already as far from our anchor as they were from theirs."""
        self._outstanding.restore(former, waiting, self.anchor, missed)

    # Entering.

    def enter(self, round_number: int) -> bool:
        """Before the first step: on to the round from which the cluster takes part. Not when it breaks before that."""
        self._office.wait_ready(round_number)
        if self._office.ready < round_number:
            return False
        self._move_to(round_number)
        self._contributed = round_number - 1
        self._outstanding.entered()
        return True

    # Restore points.

    def standing(self, epoch: Epoch, step: Step) -> Standing:
        return standing_of(epoch, step, self._contributed, self._progress, self._owed)

    def go_back(self, standing: Standing, waiting: Mapping[Bounds, Waiting], contributed: int) -> None:
        """Stand where a restore point stands; our weights and anchor are of it. Then on to where the cluster was.

        `contributed`: the newest round that some member made a contribution for, before the cluster broke. What had
        been learned at the point may have gone with those after it: for each, the same is done here, but nothing is
        sent. If the round's record has that contribution, then what waits here has entered the anchor with it.
        """
        self._outstanding.take_over(waiting, self._place.cluster)
        self._contributed = standing.contributed
        self._progress, self._owed = standing.progress, standing.accounts
        for round_number in range(max(self.anchor, self._contributed + 1), contributed + 1):
            self._office.wait_ready(round_number)
            if self._office.ready < round_number:
                return  # the engine stops
            self._move_to(round_number)
            self._contribute(unsent=True)

    # What may be done next.

    @property
    def complete(self) -> bool:
        return self.anchor == self._place.rounds

    @property
    def contributed_round(self) -> int:
        """The newest that a contribution was made for."""
        return self._contributed

    @property
    def contributed(self) -> bool:
        """To the round that begins at our anchor."""
        return self._contributed == self.anchor

    def next_blocks(self, count: int) -> int | None:
        """The first of `count` blocks for a step now; None while nothing is left to do but wait for the next anchor."""
        if self.complete or self._is_waiting():
            return None
        lease = self._lease()
        return self._start(lease) if lease and self._start(lease) + count <= lease.stop else None

    @property
    def micro_batches(self) -> int:
        """Of the next step; 1 where we take no part, and there is none."""
        participant = self._participant if not self.complete else None
        return participant.micro_batches if participant else 1

    @property
    def at(self) -> int:
        """Where the run stands, in steps, for the schedule of the learning rate and for records."""
        plan = self._plan
        done = self._progress.steps
        return plan.first_step + (plan.steps + done if self._contributed == self.anchor else min(done, plan.steps - 1))

    def _is_waiting(self) -> bool:
        """Contributed, and either nothing may overlap, or as far ahead as may be, or no round follows."""
        if self._contributed < self.anchor:
            return False
        last = self.anchor + 1 == self._place.rounds
        return last or not self._config.overlap or self._progress.steps >= self._plan.steps

    @property
    def _plan(self) -> RoundPlan:
        return self._office.plan(self.anchor)

    @property
    def _participant(self) -> Participant | None:
        return self._plan.participant(self._place.cluster)

    def _lease(self) -> Blocks | None:
        participant = self._participant
        if participant is None:
            return None
        return participant.next_blocks if self._contributed == self.anchor else participant.blocks

    def _start(self, lease: Blocks) -> int:
        """The next block of a lease; one that begins where the last began is the same, longer perhaps."""
        before = self._progress.lease
        return self._progress.next_block if before is not None and before.start == lease.start else lease.start

    def took(self, count: int) -> None:
        """A step has used the next `count` blocks."""
        lease, progress = self._lease(), self._progress
        assert lease is not None
        start = self._start(lease)
        if progress.blocks and progress.lease is not None and progress.lease.start == lease.start:
            progress.blocks[-1] = Blocks(start=progress.blocks[-1].start, stop=start + count)
        else:
            progress.blocks.append(Blocks(start=start, stop=start + count))
        progress.lease, progress.next_block = lease, start + count

    # The border between two steps: see zero.engine.Border.

    @property
    def ready(self) -> int:
        return self._office.ready

    @property
    def late(self) -> bool:
        return self._office.late

    @property
    def keep(self) -> bool:
        return self.may_keep()

    def reached(self, verdict: Verdict) -> bool:
        self.keeps = verdict.keep
        self._progress.steps += 1
        self._progress.tokens += verdict.tokens
        return verdict.ready > self.anchor or self._is_due(verdict)

    def cross(self, verdict: Verdict) -> None:
        self._move_to(verdict.ready)
        if not self.complete and self._is_due(verdict):
            self._contribute()

    def wait(self) -> None:
        """Until this member could move on; the others are asked with the next ballot."""
        self._office.wait_ready(self.anchor + 1)

    def _is_due(self, verdict: Verdict) -> bool:
        progress, lease = self._progress, self._lease()
        if self._contributed == self.anchor or not progress.steps or lease is None:
            return False
        used = sum(map(len, progress.blocks)) // progress.steps
        exhausted = self._start(lease) + used > lease.stop
        return progress.steps >= self._plan.steps or verdict.late or exhausted

    # Contributing.

    def _contribute(self, *, unsent: bool = False) -> None:
        """`unsent`: as if it were, by another of our cluster's plans."""
        plan, participant = self._plan, self._participant
        assert participant is not None  # else there is no lease, and nothing is due
        codec = EXACT if unsent else self._office.codec()
        codec = codec if unsent else self._encoder(for_flush(codec) if plan.flush else codec)
        spans = range(len(plan.spans))
        for span in spans if unsent else sending_order(plan, participant.members[self._place.rank].worker_id):
            span_plan = plan.spans[span]
            fragments = self._place.layout.fragments(self._place.rank, span_plan.bounds)
            if not fragments:
                continue
            displacement = np.concatenate(
                [
                    np.subtract(
                        *(values[f.slice_offset :][: len(f.flat)] for values in (self._anchor.values, self._weights))
                    )
                    for f in fragments
                ]
            )
            part = self._outstanding.contributor(span_plan.bounds).contribute(
                plan.round, displacement, codec, flush=plan.flush
            )
            self._owed[span_plan.bounds] = self._account(participant, span_plan.bounds)
            if unsent:
                continue
            # At once: the line is busy while the next is encoded.
            self._office.send([Outgoing(self._key(plan, span, part.codec, part.data), part.data)])
        self._contributed = self.anchor
        self._progress = Progress()

    def _account(self, participant: Participant, bounds: Bounds) -> Account:
        """What a contribution to the span stands for now; of blocks it names those that the plan knows to be ours."""
        owed, progress = self._owed.get(bounds, Account()), self._progress
        blocks = tuple(named for named in (*owed.blocks, *progress.blocks) if participant.leased(named))
        return Account(owed.steps + progress.steps, owed.tokens + progress.tokens, blocks)

    def _key(self, plan: RoundPlan, span: int, codec: AnyCodec, data: bytes) -> PartKey:
        account = self._owed[plan.spans[span].bounds]
        return PartKey(
            run_id=self._place.run_id,
            round=plan.round,
            span=span,
            cluster=self._place.cluster,
            rank=self._place.rank,
            codec=codec.wire_id,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            steps=account.steps,
            tokens=account.tokens,
            blocks=account.blocks,
        )

    # Moving.

    def _move_to(self, anchor: int) -> None:
        while self.anchor < anchor:
            record = self._office.record(self.anchor)
            self._reporting.wait()
            # Local weights move with the anchor, so what waits in them stays as it is.
            log.apply(self._anchor, record, self._fragments, self._office.blob, self._outer, self._weights)
            for bounds in self._outstanding.settle(record):
                self._owed.pop(bounds, None)
            self.anchor = record.round + 1
            logger.info("anchor round=%d tokens=%d", self.anchor, record.total_tokens)
            self._reporting = self._office.applied(self._root)
        if self.complete:
            self._reporting.wait()  # nobody would do it after us
            self._weights[:] = self._anchor.values

    @contextlib.contextmanager
    def showing_anchor(self) -> Iterator[None]:
        """The slice holds the anchor inside the block, and what it held before afterwards."""
        local = self._weights.copy()
        self._weights[:] = self._anchor.values
        try:
            yield
        finally:
            self._weights[:] = local

    def _fragments(self, span: Bounds) -> Sequence[Fragment]:
        return self._place.layout.fragments(self._place.rank, span)

    def _root(self) -> RootReport:
        root = digest.root(digest.leaves(self._anchor.values))
        place = self._place
        return RootReport(round=self.anchor, cluster=place.cluster, rank=place.rank, epoch=place.epoch, root=root)


def sending_order(plan: RoundPlan, me: WorkerId) -> list[int]:
    """Spans as their parts are to leave: to every reducer in turn, and first to whom nobody else sends first.

    If all began with the same reducer, its line up would fall idle while the others still waited for their parts.
    """
    places = {worker: place for place, worker in enumerate(plan.workers)}
    found: list[tuple[int, int, int]] = []
    given: Counter[WorkerId] = Counter()
    for span in range(len(plan.spans)):
        reducer = plan.reducer(span)
        turn = (places.get(reducer, 0) - places[me] - 1) % len(places)
        found.append((given[reducer], turn, span))
        given[reducer] += 1
    return [span for _, _, span in sorted(found)]
