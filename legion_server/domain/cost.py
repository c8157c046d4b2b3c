"""What a cluster that shares one model costs its members: memory, and time on the network in every step. Pure.

ZeRO-3 divides memory by the number of members, never traffic (Rajbhandari et al., arXiv 1910.02054, 7.2). With P the
elements of the model, o_i those that member i owns, m micro-batches a step of which it computes k_i, b_w and b_g the
bytes that a weight and a gradient take on the wire, g how often a unit is gathered in a micro-batch (2: forward and
backward; 1 where its weights stay between the two) and r_i how often gradients leave (k_i: after every micro-batch;
1: once a step), member i

    receives  g k_i (P - o_i) b_w  +  o_i b_g sum(r_j, j != i)      weights of the others, gradients for its own slice
    sends     g o_i b_w sum(k_j, j != i)  +  r_i (P - o_i) b_g      its own slice, gradients of the others' slices

bytes a step, at the rate of its slowest link in that direction, both directions at once; and it waits for
g k_i + r_i answers of every unit, a claim for each micro-batch and the vote, a round trip each. Prefetching hides some
of these round trips: the forecast is an upper bound. The slowest member is the cluster's.

What members behind one relay send and receive passes that relay all at once, while links are measured one at a time: a
link through a relay counts for as much less as the group has members behind it.

Memory of a member: what the optimizer keeps of its slice, three units at work, and the whole model's weights or
gradients where the configuration keeps those.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from legion.config import CodecName, RunConfig
from legion.errors import LegionError
from legion.ids import WorkerId
from legion.layout import Layout
from legion.messages import Hardware
from legion.rounds import CONTRIBUTE_SHARE
from legion_server.domain.links import UNMEASURED, Link, Pair
from legion_server.domain.standing import FLOP_PER_TOKEN

WIRE_BYTES: Mapping[CodecName, float] = {"none": 4.0, "bf16": 2.0, "int8": 1.02}  # a value; int8 with its scales
UNITS_AT_WORK = 3  # see docs/architecture.md, Memory of a member
FP32_BYTES = 4
# FLOP/s of training, until a worker's own steps have been measured; within a factor of three of what is usual.
NOMINAL_FLOPS = {"cuda": 2e13, "mps": 3e12, "xpu": 5e12}
NOMINAL_CORE_FLOPS = 2e10


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could be in a cluster."""

    worker_id: WorkerId
    label: str
    memory_bytes: int
    share: int
    tokens_per_s: float
    is_measured: bool = False  # its speed; else it follows from its hardware
    relay: str | None = None  # host and port of the one that it is reached through; None: directly


@dataclass(frozen=True, slots=True)
class Job:
    """What there is to be trained."""

    config: RunConfig
    sizes: tuple[int, ...]  # elements of each unit

    @property
    def total(self) -> int:
        return Layout(self.sizes, (1,)).total

    @property
    def step_tokens(self) -> int:
        batch = self.config.batch
        return batch.micro_batches * batch.micro_batch_blocks * self.config.data.seq_len

    @property
    def longest_step_s(self) -> float:
        """A cluster whose steps take longer has nothing to contribute when a round waits for it no more."""
        return CONTRIBUTE_SHARE * self.config.rounds.deadline_s


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a step of a cluster."""

    compute_s: float
    exchange_s: float
    tokens_per_s: float

    longest_step_s: float  # see Job

    @property
    def keeps_up(self) -> bool:
        """The network keeps up with the computing."""
        return self.exchange_s <= self.compute_s

    @property
    def step_s(self) -> float:
        return max(self.compute_s, self.exchange_s)

    @property
    def pays(self) -> bool:
        """For members none of which could train alone: whatever comes in time for a round is more than nothing."""
        return self.keeps_up or self.step_s <= self.longest_step_s


def nominal_speed(hardware: Hardware, total: int) -> float:
    """Tokens/s of a worker whose steps nobody has measured yet, from what it says it is."""
    flops = max((NOMINAL_FLOPS.get(device.kind, 0.0) for device in hardware.devices), default=0.0)
    return max(flops, NOMINAL_CORE_FLOPS * max(1, hardware.cpu_count)) / (FLOP_PER_TOKEN * max(1, total))


def member_bytes(job: Job, owned: int) -> int:
    """Memory of a member that owns so many elements."""
    cluster, whole = job.config.cluster, FP32_BYTES * job.total
    kept = whole * (not cluster.reshard_after_forward) + whole * (cluster.reduce_every == "step")
    return job.config.optimizer.state_bytes(owned, job.total) + FP32_BYTES * UNITS_AT_WORK * max(job.sizes) + kept


def fits_alone(job: Job, one: Candidate) -> bool:
    return member_bytes(job, job.total) <= one.memory_bytes


def fits(job: Job, members: Sequence[Candidate]) -> bool:
    """Whether these can share the model, each by its share."""
    try:
        layout = Layout(job.sizes, tuple(member.share for member in members))
        job.config.optimizer.require_members(len(members))
    except LegionError:
        return False  # fewer chunks than members, or an optimizer that needs whole matrices
    return all(
        member_bytes(job, layout.owned(rank)) <= member.memory_bytes
        for rank, member in zip(layout.ranks, members, strict=True)
    )


def link_of(known: Mapping[Pair, Link], first: WorkerId, second: WorkerId) -> tuple[Link, bool]:
    """The link, and whether it is written the other way round."""
    turned = second < first
    return known.get((second, first) if turned else (first, second), UNMEASURED), turned


def forecast(job: Job, members: Sequence[Candidate], known: Mapping[Pair, Link]) -> Forecast:
    """A step of a cluster of these. A link of which no throughput is known carries nothing."""
    cluster, tokens = job.config.cluster, job.step_tokens
    count, speeds = job.config.batch.micro_batches, [member.tokens_per_s for member in members]
    if cluster.claims == "static":
        batches = [count / len(members)] * len(members)
        compute_s = max(tokens / len(members) / speed for speed in speeds)
    else:
        batches = [count * speed / sum(speeds) for speed in speeds]
        compute_s = tokens / sum(speeds)
    exchange_s = max(_exchange_s(job, members, known, batches)) if len(members) > 1 else 0.0
    return Forecast(compute_s, exchange_s, tokens / max(compute_s, exchange_s), job.longest_step_s)


def _exchange_s(
    job: Job, members: Sequence[Candidate], known: Mapping[Pair, Link], batches: Sequence[float]
) -> list[float]:
    """Of each member."""
    config, layout = job.config, Layout(job.sizes, tuple(member.share for member in members))
    weight, gradient = WIRE_BYTES[config.codecs.weights], WIRE_BYTES[config.codecs.gradients]
    gathers = 2 if config.cluster.reshard_after_forward else 1
    leaves = list(batches) if config.cluster.reduce_every == "micro_batch" else [1.0] * len(members)
    found = []
    for rank, member in zip(layout.ranks, members, strict=True):
        owned, others = layout.owned(rank), layout.total - layout.owned(rank)
        mine, sent = batches[rank], leaves[rank]
        down = gathers * mine * others * weight + owned * gradient * (sum(leaves) - sent)
        up = gathers * owned * weight * (sum(batches) - mine) + sent * others * gradient
        rtt_s, up_rate, down_rate = _slowest(member, members, known)
        answers = len(job.sizes) * (gathers * mine + sent) + mine + 1
        found.append(max(_over(up, up_rate), _over(down, down_rate)) + answers * rtt_s)
    return found


def _slowest(member: Candidate, members: Sequence[Candidate], known: Mapping[Pair, Link]) -> tuple[float, float, float]:
    """Longest round trip, and lowest rates up and down, of a member's links to the others."""
    rtt_s, up, down = 0.0, float("inf"), float("inf")
    behind = Counter(one.relay for one in members)  # None: directly
    for other in members:
        if other.worker_id == member.worker_id:
            continue
        link, turned = link_of(known, member.worker_id, other.worker_id)
        share = 1 / max(behind[one.relay] if one.relay else 1 for one in (member, other))
        there, back = share * (link.there_bytes_per_s or 0.0), share * (link.back_bytes_per_s or 0.0)
        rtt_s = max(rtt_s, link.rtt_s or 0.0)
        up, down = min(up, back if turned else there), min(down, there if turned else back)
    return rtt_s, up, down


def _over(size_bytes: float, bytes_per_s: float) -> float:
    return size_bytes / bytes_per_s if bytes_per_s > 0 else float("inf")
