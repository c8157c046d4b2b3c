"""A span's reducer: takes parts, closes, and combines whole contributions into one update.

Pure but for the bytes it keeps: time comes in with every call. The unit of inclusion is (cluster, span): all parts of
the members whose slices meet the span, or nothing. What is combined depends on the included contributions and the
reducer's residual alone, in an order and with roundings that anybody can repeat.
"""

import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from legion.codec.api import AnyCodec, Floats
from legion.codec.auto import for_flush
from legion.codec.registry import ALL, SPARSE, any_by_name, any_by_wire_id
from legion.errors import PartInvalid, PartRefused
from legion.ids import ClusterId, Rank, WorkerId
from legion.layout import CHUNK, Fragment
from legion.outer.log import blob_of, values_of
from legion.outer.tally import Tally
from legion.rounds import Inclusion, Participant, PartKey, RoundPlan, SpanReport

MeanOver = Literal["participants", "senders"]
TOO_LARGE: Final = np.float32(2.0**64)  # of a value: weighted by tokens and added up, smaller ones stay finite
SMALLEST_SCALE: Final = 2.0**-126  # of a clipped contribution: a float32 that is not zero


@dataclass(frozen=True, slots=True)
class Closing:
    """When a span closes: at once with all that are alive, after `grace_s` with a quorum, at the deadline anyhow.

    At the deadline also below the quorum, with one contribution if there is no more. The quorum is there so that nobody
    waits long for a few, not to protect the average: what has not come is not lost but goes with the next round, while
    a round that waited for those who do not come (half of all workers may vanish at once) would stop everybody. The
    server counts such updates (`below_quorum`).
    """

    quorum: float
    grace_s: float


@dataclass(slots=True)
class Contribution:
    """What has come from one cluster."""

    participant: Participant
    fragments: dict[Rank, tuple[Fragment, ...]]  # of the members whose slices meet the span
    keys: dict[Rank, PartKey] = field(default_factory=dict)
    parts: dict[Rank, bytes] = field(default_factory=dict)
    squares: dict[Rank, list[np.float64]] = field(default_factory=dict)  # their sums, of each fragment

    @property
    def complete(self) -> bool:
        return len(self.parts) == len(self.fragments)

    @property
    def norm(self) -> float:
        return float(np.sqrt(sum(square for _, squares in sorted(self.squares.items()) for square in squares)))

    @property
    def tokens(self) -> int:
        """Counted: what the members name, bounded by what the plan allows."""
        return min(min(key.tokens for key in self.keys.values()), self.participant.most_tokens)


class SpanReducer:
    """One term of one span of one round."""

    def __init__(
        self,
        plan: RoundPlan,
        span: int,
        term: int,
        *,
        closing: Closing,
        mean_over: MeanOver,
        opened_s: float,
        codecs: Set[int] | None = None,
        tally: Tally | None = None,
        audit: bool = False,
    ) -> None:
        """`codecs`: wire ids that contributions may have, None: any. `tally`: of refusals once the span is closed.

        `audit`: as the span's auditor.
        """
        self.plan, self.span, self.term = plan, span, term
        self._codecs = codecs
        self._tally = tally or Tally()
        self.audit = audit
        self.bounds = plan.spans[span].bounds
        self._closing = closing
        self._mean_over = mean_over
        self._opened_s = opened_s
        self._quorum_since: float | None = None
        self._closed = False
        self.refused: Counter[str] = Counter()
        self._contributions = {p.cluster: self._expected(p) for p in plan.participants}

    def _expected(self, participant: Participant) -> Contribution:
        layout = participant.layout(self.plan.shape)
        fragments = {rank: layout.fragments(rank, self.bounds) for rank in layout.ranks}
        return Contribution(participant, {rank: found for rank, found in fragments.items() if found})

    def revise(self, plan: RoundPlan) -> None:
        """The same term, and some cluster has other members: what had come of its former ones is of no use."""
        self.plan = plan
        for participant in plan.participants:
            known = self._contributions.get(participant.cluster)
            if not self._closed and (known is None or known.participant.epoch != participant.epoch):
                self._contributions[participant.cluster] = self._expected(participant)

    # Parts come in.

    def admit(self, sender: WorkerId, key: PartKey) -> None:
        """What can be said before the values are read. PartRefused, with a reason that is counted."""
        with self._counting():
            self._require(sender, key)

    def offer(self, sender: WorkerId, key: PartKey, data: bytes) -> None:
        """Keep the part. PartRefused or PartInvalid; the same part again changes nothing."""
        with self._counting():
            contribution = self._require(sender, key)
            rank = Rank(key.rank)
            if contribution.keys.get(rank) == key:
                return
            if rank in contribution.keys:
                raise PartRefused(f"another part of rank {rank} of {key.cluster} is here already", reason="repeated")
            if any(_story(other) != _story(key) for other in contribution.keys.values()):
                raise PartRefused(f"the members of {key.cluster} tell of different work", reason="disagreement")
            if len(data) != key.size_bytes or hashlib.sha256(data).hexdigest() != key.sha256:
                raise PartRefused(
                    f"the part of rank {rank} of {key.cluster} is not what its name says", reason="digest"
                )
            # Decoded now, so that the sender learns of it; kept encoded, which is what the memory is for.
            decoded = self._decoded(key, data, contribution.fragments[rank])
            contribution.squares[rank] = [_sum_of_squares(values) for _, values in decoded]
            contribution.keys[rank] = key
            contribution.parts[rank] = data

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        try:
            yield
        except (PartRefused, PartInvalid) as error:
            reason = error.reason if isinstance(error, PartRefused) else "invalid"
            if self._closed:
                self._tally.refused(reason)
            else:
                self.refused[reason] += 1
            raise

    def _require(self, sender: WorkerId, key: PartKey) -> Contribution:
        if key.run_id != self.plan.run_id or key.round != self.plan.round:
            raise PartRefused(f"round {key.round} was named, round {self.plan.round} is reduced here", reason="round")
        if key.span != self.span:
            raise PartRefused(f"span {key.span} was named, span {self.span} is reduced here", reason="span")
        contribution = self._contributions.get(key.cluster)
        members = contribution.participant.members if contribution else ()
        if contribution is None or key.rank >= len(members) or members[key.rank].worker_id != sender:
            raise PartRefused(f"{sender} is not rank {key.rank} of a participant {key.cluster}", reason="stranger")
        fragments = contribution.fragments.get(Rank(key.rank))
        if fragments is None:
            raise PartRefused(f"rank {key.rank} of {key.cluster} holds nothing of span {self.span}", reason="span")
        if self._closed and contribution.keys.get(Rank(key.rank)) != key:
            raise PartRefused(f"span {self.span} of round {self.plan.round} is closed", reason="late")
        if self._codecs is not None and key.codec not in self._codecs:
            raise PartRefused(f"codec {key.codec} is none of this run's", reason="codec")
        if key.size_bytes > any_by_wire_id(key.codec).most_bytes(sum(len(fragment.flat) for fragment in fragments)):
            raise PartInvalid(f"a part of {key.size_bytes} bytes is longer than its codec ever writes")
        if not all(contribution.participant.leased(named) for named in key.blocks):
            raise PartRefused(f"{key.cluster} names blocks that it has no lease for", reason="lease")
        return contribution

    def _decoded(self, key: PartKey, data: bytes, fragments: tuple[Fragment, ...]) -> Iterator[tuple[int, Floats]]:
        """(offset in the span, values) of each fragment of a part."""
        values = np.empty(sum(len(fragment.flat) for fragment in fragments), np.float32)
        any_by_wire_id(key.codec).decode(memoryview(data), values)
        if not (np.abs(values) < TOO_LARGE).all():  # false for NaN
            raise PartRefused(
                f"the part of rank {key.rank} of {key.cluster} holds NaN, infinity or what sums up to it",
                reason="not-finite",
            )
        at = 0
        for fragment in fragments:
            yield fragment.span_offset, values[at : at + len(fragment.flat)]
            at += len(fragment.flat)

    # Closing.

    def should_close(self, now_s: float, gone: Set[ClusterId]) -> bool:
        """`gone`: participants that the coordinator counts as gone; nobody waits for those."""
        if self._closed:
            return False
        awaited = [c for c in self._contributions.values() if c.participant.cluster not in gone]
        arrived = [c for c in self._contributions.values() if c.complete]
        if not arrived:
            return False
        if all(c.complete for c in awaited) or now_s >= self._opened_s + self.plan.deadline_s:
            return True
        total = sum(c.participant.most_tokens for c in awaited)
        if sum(c.participant.most_tokens for c in arrived) < self._closing.quorum * total:
            return False
        self._quorum_since = now_s if self._quorum_since is None else self._quorum_since
        return now_s >= self._quorum_since + self._closing.grace_s  # to the last bit what `next_look_s` says

    def next_look_s(self, now_s: float) -> float:
        """How long until time alone may close it; infinity while no contribution is complete."""
        if not any(c.complete for c in self._contributions.values()):
            return math.inf
        due = self._opened_s + self.plan.deadline_s
        if self._quorum_since is not None:
            due = min(due, self._quorum_since + self._closing.grace_s)
        return max(0.0, due - now_s)

    def reduce(self, residual: Floats | None, codec: AnyCodec) -> tuple[bytes, SpanReport, Floats]:
        """Close and combine: the blob, the report, and what encoding dropped, for the next round's `residual`.

        An audited span goes without `residual`, which waits for one that is not.
        """
        self._closed = True
        if self.plan.flush:  # local weights become the anchor: what the update left out, nobody would train on
            codec = for_flush(codec)
        included = sorted(
            (c for c in self._contributions.values() if c.complete and c.tokens > 0),
            key=lambda c: c.participant.members[0].worker_id,
        )
        self.refused["incomplete"] += sum(bool(c.parts) and not c.complete for c in self._contributions.values())
        scales = _clip_scales([c.norm for c in included])
        update = self._mean(included, scales)
        audited = self.plan.spans[self.span].audited
        if residual is not None and not audited:
            np.add(update, residual, out=update)
        blob = blob_of(codec, update)
        dropped = np.subtract(update, values_of(blob, update.size))
        if residual is not None and audited:
            np.add(dropped, residual, out=dropped)
        report = SpanReport(
            round=self.plan.round,
            span=self.span,
            term=self.term,
            digest=hashlib.sha256(blob).hexdigest(),
            size_bytes=len(blob),
            included=tuple(_inclusion(c, scale) for c, scale in zip(included, scales, strict=True)),
            refused={reason: count for reason, count in sorted(self.refused.items()) if count},
            audit=self.audit,
        )
        return blob, report, dropped

    def _mean(self, included: list[Contribution], scales: list[float]) -> Floats:
        total = np.zeros(len(self.bounds), np.float32)
        weights = np.zeros(len(self.bounds) if self._mean_over == "senders" else 1, np.float32)
        for contribution, scale in zip(included, scales, strict=True):
            weight = np.float32(contribution.tokens)
            for offset, values in self._values(contribution):
                stop = offset + values.size
                if self._mean_over == "senders":
                    np.add(weights[offset:stop], weight, out=weights[offset:stop], where=values != 0)
                np.multiply(values, np.float32(scale), out=values)
                np.multiply(values, weight, out=values)
                np.add(total[offset:stop], values, out=total[offset:stop])
            if self._mean_over == "participants":
                np.add(weights, weight, out=weights)
        np.divide(total, weights, out=total, where=weights > 0)
        return total

    def _values(self, contribution: Contribution) -> Iterator[tuple[int, Floats]]:
        for rank, data in sorted(contribution.parts.items()):
            yield from self._decoded(contribution.keys[rank], data, contribution.fragments[rank])


def codecs_of(name: str, density: float, *, flush: bool) -> frozenset[int]:
    """The wire ids that contributions to a round may have, as `rounds.codec` and `rounds.density` say.

    With `auto` every sender chooses for itself, and a newer one may choose what we would not.
    """
    if name == "auto":
        allowed: list[AnyCodec] = [*ALL, *SPARSE]
    else:
        allowed = [any_by_name(f"topk{round(density * CHUNK)}" if name == "topk" else name)]
    return frozenset((for_flush(codec) if flush else codec).wire_id for codec in allowed)


def _story(key: PartKey) -> tuple[object, ...]:
    return key.steps, key.tokens, key.blocks


def _inclusion(contribution: Contribution, scale: float) -> Inclusion:
    keys = [key for _, key in sorted(contribution.keys.items())]
    return Inclusion(
        cluster=contribution.participant.cluster,
        parts=tuple(key.sha256 for key in keys),
        tokens=contribution.tokens,
        clip_scale=scale,
        blocks=keys[0].blocks,
    )


def _clip_scales(norms: list[float]) -> list[float]:
    """What brings each norm down to the median; of an even number the upper one, so that two are never clipped.

    Of the norms above zero: who has nothing to say about a span does not silence those who have.
    """
    above = sorted(norm for norm in norms if norm > 0)
    if not above:
        return [1.0] * len(norms)
    median = above[len(above) // 2]
    return [1.0 if norm <= median else max(float(np.float32(median / norm)), SMALLEST_SCALE) for norm in norms]


def _sum_of_squares(values: Floats) -> np.float64:
    """In float64 and by halves: element by element, so that no vector width decides about the roundings."""
    squares = np.square(values, dtype=np.float64)
    while squares.size > 1:
        half = squares.size // 2
        rest = squares[2 * half :]
        squares = squares[:half] + squares[half : 2 * half]
        if rest.size:
            squares[:1] += rest
    return np.float64(squares[0])
