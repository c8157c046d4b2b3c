"""Rounds between clusters of one in one process: the product's members, reducers and log, without a network.

Coordinator, transfers and clocks are left out: every part arrives, and a span closes when all that are there have sent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from convergence.arms import Arm
from legion import digest
from legion.codec.api import AnyCodec, Floats
from legion.codec.registry import any_by_name
from legion.comm.api import Work
from legion.comm.bridge import DoneWork
from legion.config import RunConfig, config_digest
from legion.ids import ClusterId, Epoch, Rank, RunId, WorkerId
from legion.layout import CHUNK, Bounds, Fragment, Layout, spans
from legion.messages import Endpoint, Member, ModelShape
from legion.outer.log import Anchor, OuterStep, apply
from legion.outer.member import Outgoing, Place, RoundMember
from legion.outer.reducer import Closing, SpanReducer
from legion.rounds import Blocks, Participant, RootReport, RoundPlan, RoundRecord, SpanPlan, SpanRecord
from legion_server.domain.round_plan import flushes

RUN = RunId("run-convergence")
SPANS = 2


@dataclass
class Traffic:
    """Bytes of values, summed over rounds; headers not counted."""

    parts: int = 0
    contributions: int = 0
    updates: int = 0
    rounds: int = 0

    def bits_per_value(self, numel: int) -> dict[str, float]:
        """Per element of the flat space and round: one worker's contribution, and the update that everybody fetches."""
        return {
            "up_bits": self.parts * 8 / numel / max(1, self.contributions),
            "down_bits": self.updates * 8 / numel / max(1, self.rounds),
        }


def cluster_id(number: int) -> ClusterId:
    return ClusterId(f"cluster-{number:03}")


def worker_id(number: int) -> WorkerId:
    return WorkerId(f"worker-{number:03}")


def codec_of(arm: Arm) -> AnyCodec:
    """`topk` has a codec for each density."""
    return any_by_name(f"topk{round(arm.density * CHUNK)}" if arm.codec == "topk" else arm.codec)


class Averaging:
    """The coordinator's, the reducers' and the assembler's side, and the `Office` of every member."""

    def __init__(self, arm: Arm, config: RunConfig, shape: ModelShape, theta_0: Floats) -> None:
        self.arm, self.config, self.shape = arm, config, shape
        self.traffic = Traffic()
        momentum = np.zeros_like(theta_0) if config.rounds.outer_momentum else None
        self.anchor = Anchor(theta_0.copy(), momentum)
        self._root = digest.root(digest.leaves(theta_0))
        self._whole = Layout(shape.sizes, (1,))
        self._spans = spans(self._whole.total, SPANS)
        self._residuals: list[Floats | None] = [None] * len(self._spans)
        self._plans: dict[int, RoundPlan] = {}
        self._records: dict[int, RoundRecord] = {}
        self._blobs: dict[str, bytes] = {}
        self._outbox: list[Outgoing] = []
        self.ready = 0

    def member(self, cluster: int, weights: Floats) -> RoundMember:
        """One that has the newest anchor in `weights` and nothing else."""
        place = Place(RUN, cluster_id(cluster), Rank(0), self._whole, self.arm.rounds)
        return RoundMember(self.config.rounds, place, weights, self.ready, self)

    def plan_round(self, newcomers: set[int]) -> None:
        self._plans[self.ready] = self._plan(self.ready, newcomers)

    def has_sent(self, cluster: int) -> bool:
        """Its contribution to this round."""
        return any(outgoing.key.cluster == cluster_id(cluster) for outgoing in self._outbox)

    def commit(self, present: set[int]) -> None:
        """What the clusters that are there have sent, combined; the next anchor is ready."""
        plan = self._plans[self.ready]
        sent = [outgoing for outgoing in self._outbox if outgoing.key.cluster in map(cluster_id, present)]
        self._outbox.clear()
        self._blobs.clear()
        gone = {cluster_id(k) for k in range(self.arm.clusters)} - {outgoing.key.cluster for outgoing in sent}
        records = tuple(self._reduce(plan, number, sent, gone) for number in range(len(self._spans)))
        self._records[plan.round] = RoundRecord(
            run_id=RUN,
            round=plan.round,
            spans=records,
            bounds=tuple((span.start, span.stop) for span in self._spans),
            flush=plan.flush,
            tokens=0,
            total_tokens=0,
            committed_at=0.0,
        )
        rounds = self.config.rounds
        outer = OuterStep(rounds.outer_lr, rounds.outer_momentum)
        apply(self.anchor, self._records[plan.round], self._held, self.blob, outer)
        self._root = digest.root(digest.leaves(self.anchor.values))
        self.traffic.rounds += 1
        self.ready += 1

    def _reduce(self, plan: RoundPlan, number: int, sent: Sequence[Outgoing], gone: set[ClusterId]) -> SpanRecord:
        rounds = self.config.rounds
        closing = Closing(rounds.quorum, rounds.grace_s)
        assert rounds.mean_over != "auto"
        reducer = SpanReducer(plan, number, 0, closing=closing, mean_over=rounds.mean_over, opened_s=0.0)
        for outgoing in sent:
            if outgoing.key.span != number:
                continue
            sender = plan.participant(outgoing.key.cluster)
            assert sender is not None
            reducer.offer(sender.members[0].worker_id, outgoing.key, outgoing.data)
            self.traffic.parts += len(outgoing.data)
            self.traffic.contributions += number == 0
        if not reducer.should_close(0.0, gone):
            raise RuntimeError(f"span {number} waits for a part that nobody will send")
        codec = any_by_name(rounds.update_codec)
        blob, report, self._residuals[number] = reducer.reduce(self._residuals[number], codec)
        self._blobs[report.digest] = blob
        self.traffic.updates += len(blob)
        return SpanRecord(
            term=report.term,
            reducer=plan.spans[number].reducers[0],
            digest=report.digest,
            size_bytes=report.size_bytes,
            included=report.included,
        )

    def _held(self, span: Bounds) -> tuple[Fragment, ...]:
        return self._whole.fragments(Rank(0), span)

    # What members ask of their office.

    late = False

    def plan(self, round_number: int) -> RoundPlan:
        return self._plans[round_number]

    def record(self, round_number: int) -> RoundRecord:
        return self._records[round_number]

    def blob(self, sha256: str) -> memoryview:
        return memoryview(self._blobs[sha256])

    def codec(self) -> AnyCodec:
        if self.ready < self.arm.dense_rounds:
            return any_by_name("int4")
        return codec_of(self.arm)

    def send(self, parts: Sequence[Outgoing]) -> None:
        self._outbox += parts

    def applied(self, report: Callable[[], RootReport]) -> Work[None]:
        made = report()
        if made.root != self._root:
            raise RuntimeError(f"{made.cluster} has another anchor {made.round} than the log gives")
        return DoneWork(None)

    def wait_ready(self, anchor: int) -> None:
        if self.ready < anchor:
            raise RuntimeError(f"a member waits for anchor {anchor}, the newest is {self.ready}")

    # Plans.

    def _plan(self, round_number: int, newcomers: set[int]) -> RoundPlan:
        arm = self.arm
        return RoundPlan(
            run_id=RUN,
            round=round_number,
            config_digest=config_digest(self.config),
            shape=self.shape,
            steps=arm.steps,
            first_step=round_number * arm.steps,
            participants=tuple(self._participant(round_number, k, k in newcomers) for k in range(arm.clusters)),
            spans=tuple(
                SpanPlan(start=span.start, stop=span.stop, reducers=(worker_id(number % arm.clusters),))
                for number, span in enumerate(self._spans)
            ),
            flush=flushes(self.config, round_number),
            contribute_s=1.0,
            deadline_s=1.0,
        )

    def _participant(self, round_number: int, cluster: int, newcomer: bool) -> Participant:
        size = self.arm.steps * self.config.batch.micro_batch_blocks
        first = (round_number * self.arm.clusters + cluster) * size
        after = first + self.arm.clusters * size
        return Participant(
            cluster=cluster_id(cluster),
            epoch=Epoch(1),
            members=(Member(worker_id=worker_id(cluster), endpoint=Endpoint(host="127.0.0.1", port=1), share=1),),
            micro_batches=1,
            blocks=Blocks(start=first, stop=first + size),
            next_blocks=Blocks(start=after, stop=after + size),
            most_tokens=0 if newcomer else size * self.config.data.seq_len,
        )
