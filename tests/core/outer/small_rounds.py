"""Plans and parts of a small run, for tests of rounds: three clusters, of one, two and three uneven members."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legion.codec.api import AnyCodec, Floats
from legion.ids import ClusterId, Epoch, Rank, RunId, WorkerId
from legion.layout import CHUNK, Fragment, Layout, spans
from legion.messages import Endpoint, Member, ModelShape, TensorShape, UnitShape
from legion.outer.contribution import Contributor, Waiting
from legion.rounds import Blocks, Participant, PartKey, RoundPlan, RoundRecord, SpanPlan, SpanRecord, SpanReport

RUN = RunId("run-of-tests")
UNITS = (5000, 1, 9001)  # two chunks, one, three: the middle unit belongs to one member only
TOTAL = 6 * CHUNK
SHARES = {ClusterId("a"): (1,), ClusterId("b"): (1, 3), ClusterId("c"): (2, 1, 2)}
STEPS = 4
MICRO_BATCHES = 2
LEASED = 1000  # blocks a cluster and round


def worker_of(cluster: ClusterId, rank: int) -> WorkerId:
    return WorkerId(f"worker-{cluster}-{rank}")


def shape_of(units: Sequence[int] = UNITS) -> ModelShape:
    return ModelShape(
        units=tuple(
            UnitShape(name=f"unit {i}", tensors=(TensorShape(name=f"w{i}", shape=(n,)),)) for i, n in enumerate(units)
        )
    )


def lease_of(cluster: ClusterId, round_number: int) -> Blocks:
    """Where the cluster's blocks for a round lie; no two leases meet."""
    start = (round_number * len(SHARES) + sorted(SHARES).index(cluster)) * LEASED
    return Blocks(start=start, stop=start + LEASED)


def participant_of(cluster: ClusterId, round_number: int = 0, *, most_tokens: int = 10**6) -> Participant:
    return Participant(
        cluster=cluster,
        epoch=Epoch(1),
        members=tuple(
            Member(worker_id=worker_of(cluster, rank), endpoint=Endpoint(host="127.0.0.1", port=1), share=share)
            for rank, share in enumerate(SHARES[cluster])
        ),
        micro_batches=MICRO_BATCHES,
        blocks=lease_of(cluster, round_number),
        next_blocks=lease_of(cluster, round_number + 1),
        most_tokens=most_tokens,
    )


def plan_of(
    round_number: int = 0,
    *,
    span_count: int = 2,
    participants: Sequence[Participant] | None = None,
    flush: bool = False,
    **changes: Any,
) -> RoundPlan:
    everybody = tuple(participant_of(cluster, round_number) for cluster in SHARES)
    return RoundPlan(
        run_id=RUN,
        round=round_number,
        config_digest="0" * 64,
        shape=shape_of(),
        steps=STEPS,
        first_step=round_number * STEPS,
        participants=everybody if participants is None else tuple(participants),
        spans=tuple(
            SpanPlan(
                start=span.start, stop=span.stop, reducers=tuple(worker_of(cluster, 0) for cluster in reversed(SHARES))
            )
            for span in spans(TOTAL, span_count)
        ),
        flush=flush,
        contribute_s=60.0,
        deadline_s=100.0,
    ).model_copy(update=changes)


def part_key(
    plan: RoundPlan, span: int, cluster: ClusterId, rank: int, codec: AnyCodec, data: bytes, **changes: Any
) -> PartKey:
    """Of a part that names half of the cluster's lease."""
    lease = lease_of(cluster, plan.round)
    fields: dict[str, Any] = {
        "run_id": RUN,
        "round": plan.round,
        "span": span,
        "cluster": cluster,
        "rank": rank,
        "codec": codec.wire_id,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "steps": STEPS,
        "tokens": 1024,  # a power of two: means of one are exact
        "blocks": (Blocks(start=lease.start, stop=lease.start + LEASED // 2),),
    }
    return PartKey(**(fields | changes))


def fragments_of(plan: RoundPlan, span: int, cluster: ClusterId, rank: int) -> tuple[Fragment, ...]:
    layout = Layout(plan.shape.sizes, SHARES[cluster])
    return layout.fragments(Rank(rank), plan.spans[span].bounds)


def cut(values: Floats, fragments: Sequence[Fragment]) -> Floats:
    """What a member holds of values that cover a span."""
    return np.concatenate([values[f.span_offset : f.span_offset + len(f.flat)] for f in fragments])


def span_record(plan: RoundPlan, report: SpanReport) -> SpanRecord:
    return SpanRecord(
        term=report.term,
        reducer=plan.spans[report.span].reducers[report.term % len(plan.spans[report.span].reducers)],
        digest=report.digest,
        size_bytes=report.size_bytes,
        included=report.included,
    )


def record_of(plan: RoundPlan, reports: Sequence[SpanReport]) -> RoundRecord:
    """The log's line, the reports in the order of spans."""
    return RoundRecord(
        run_id=RUN,
        round=plan.round,
        spans=tuple(span_record(plan, report) for report in reports),
        bounds=tuple((span.start, span.stop) for span in plan.spans),
        flush=plan.flush,
        tokens=0,
        total_tokens=0,
        committed_at=0.0,
    )


def decoded(codec: AnyCodec, data: bytes, numel: int) -> NDArray[np.float64]:
    values = np.empty(numel, np.float32)
    codec.decode(memoryview(data), values)
    return values.astype(np.float64)


def restarted(contributor: Contributor, feedback: str, decay: float) -> Contributor:
    """Another that goes on from what this one would have written down."""
    again = Contributor(contributor.numel, feedback, decay)  # type: ignore[arg-type]
    waits = contributor.state()
    again.restore(Waiting(waits.pending, waits.buffer.copy(), waits.moved.copy()))
    return again
