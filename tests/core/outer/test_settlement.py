"""Settlement: in whatever order parts, kills, commits and records come, applied work and waiting work are all work."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from legion import digest
from legion.codec.api import AnyCodec
from legion.codec.registry import ALL, SPARSE
from legion.errors import PartRefused
from legion.ids import ClusterId, Rank
from legion.layout import Bounds, Fragment, Layout
from legion.outer.contribution import Contributor
from legion.outer.handover import CODEC
from legion.outer.log import Anchor, OuterStep, apply
from legion.outer.reducer import Closing, SpanReducer
from legion.outer.residuals import Made, Promised, Residuals
from legion.rounds import Participant, PartKey, RoundPlan, RoundRecord, SpanReport
from tests.core.outer.small_rounds import (
    SHARES,
    TOTAL,
    UNITS,
    decoded,
    fragments_of,
    part_key,
    participant_of,
    plan_of,
    record_of,
    restarted,
    worker_of,
)
from tests.core.outer.workers_that_settle import SPANS, Exact, Heir, SentPart, Worker, waiting_in, worker

# Roundings of float32 at values below 2, over the few dozen rounds that an example has.
TOLERANCE = 1e-5
CODECS: tuple[AnyCodec, ...] = (*ALL, *SPARSE)
UPDATE_CODECS = [codec for codec in CODECS if codec.name in ("none", "int8", "int4", "topk240x4")]
WHOLE = Layout(UNITS, (1,))
MEMBERS = sum(len(shares) for shares in SHARES.values())
EVERYBODY = list(range(MEMBERS))
AUDITED = st.lists(st.booleans(), min_size=SPANS, max_size=SPANS)  # of the following round's spans
SOME_SPANS = st.lists(st.integers(0, SPANS - 1), unique=True)
SOME = st.one_of(st.just(EVERYBODY), st.lists(st.sampled_from(EVERYBODY), min_size=1, unique=True))


class Settlement(RuleBasedStateMachine):
    """Workers train, contribute and follow the log, each at its own pace; spans are reduced, some of them twice."""

    @initialize(
        feedback=st.sampled_from(["residual", "buffer"]),
        mean_over=st.sampled_from(["participants", "senders"]),
        update_codec=st.sampled_from(UPDATE_CODECS),
    )
    def begin(self, feedback: str, mean_over: str, update_codec: AnyCodec) -> None:
        self.feedback, self.mean_over, self.update_codec = feedback, mean_over, update_codec
        self.rng = np.random.default_rng(0)
        self.theta_0 = self.rng.standard_normal(TOTAL).astype(np.float32)
        # Padding is like everything else here.
        self.workers = [
            worker(cluster, Rank(rank), self.theta_0, feedback)
            for cluster, shares in SHARES.items()
            for rank in range(len(shares))
        ]
        self.log: list[RoundRecord] = []
        self.blobs: dict[str, bytes] = {}
        self.thetas = [self.theta_0]
        self.late: list[SentPart] = []  # of rounds that are over
        self.means: Exact = np.zeros(TOTAL)  # of all rounds, as the records say they were made
        self.residuals = [Residuals() for _ in range(SPANS)]  # of each span's reducer
        self.lost: Exact = np.zeros(TOTAL)  # with reducers
        self.plan = plan_of(0, span_count=SPANS)
        self.parts: dict[tuple[int, ClusterId, int], SentPart] = {}  # of this round
        self.open_spans()

    def open_spans(self) -> None:
        self.reducers = [self.reducer(span, 0) for span in range(SPANS)]
        self.reports: list[SpanReport | None] = [None] * SPANS
        self.taken: dict[tuple[int, int], set[PartKey]] = {}  # by span and term
        self.heirs: list[Heir | None] = [None] * SPANS  # of reducers that left after they had made their update

    def reducer(self, span: int, term: int) -> SpanReducer:
        closing = Closing(quorum=0.6, grace_s=5.0)
        mean_over = self.mean_over
        return SpanReducer(self.plan, span, term, closing=closing, mean_over=mean_over, opened_s=0.0)  # type: ignore[arg-type]

    # Workers.

    @rule(who=SOME, seed=st.integers(0, 999), scale=st.sampled_from([0.0, 1e-3, 3e-2]))
    def train(self, who: list[int], seed: int, scale: float) -> None:
        for at in who:
            self.train_one(self.workers[at], seed + at, scale)

    def train_one(self, member: Worker, seed: int, scale: float) -> None:
        before = member.local.astype(np.float64)
        step = np.random.default_rng(seed).standard_normal(member.local.size).astype(np.float32)
        member.local += step * np.float32(scale)
        member.done -= member.local.astype(np.float64) - before

    @rule(who=SOME, codec=st.sampled_from(CODECS))
    def contribute(self, who: list[int], codec: AnyCodec) -> None:
        for at in who:
            self.contribute_one(self.workers[at], codec)

    def contribute_one(self, member: Worker, codec: AnyCodec) -> None:
        """Only from the newest anchor, once a round: a worker that lags follows the log first."""
        if member.round != self.plan.round or member.contributed == self.plan.round:
            return
        member.contributed = self.plan.round
        for span, contributor in member.contributors.items():
            anchor, local = (member.of_span(values, span) for values in (member.anchor.values, member.local))
            displacement = np.subtract(anchor, local)
            exact = displacement.astype(np.float64)
            part = contributor.contribute(self.plan.round, displacement, codec, flush=self.plan.flush)
            tokens = 100 + 37 * self.plan.round + 50 * len(SHARES[member.cluster])
            key = part_key(self.plan, span, member.cluster, member.rank, codec, part.data, tokens=tokens)
            sent = SentPart(key, codec, part.data, exact)
            member.held[span] = self.parts[span, member.cluster, member.rank] = sent

    @rule(pick=st.integers(0, 99), times=st.integers(1, 3))
    def deliver(self, pick: int, times: int) -> None:
        """Repeated because an acknowledgement was lost, or by the network; a closed span takes no more."""
        if not self.parts:
            return
        span, cluster, rank = sorted(self.parts)[pick % len(self.parts)]
        for _ in range(times):
            self.offer(span, self.parts[span, cluster, rank])

    @rule(span=st.integers(0, SPANS - 1))
    def deliver_all(self, span: int) -> None:
        for (of_span, _, _), sent in sorted(self.parts.items(), key=lambda item: item[0], reverse=True):
            if of_span == span:
                self.offer(span, sent)

    def offer(self, span: int, sent: SentPart) -> None:
        reducer, sender = self.reducers[span], worker_of(sent.key.cluster, sent.key.rank)
        known = self.taken.setdefault((span, reducer.term), set())
        if self.reports[span] is None or sent.key in known:
            reducer.offer(sender, sent.key, sent.data)
            known.add(sent.key)
        else:
            with pytest.raises(PartRefused) as refusal:
                reducer.offer(sender, sent.key, sent.data)
            assert refusal.value.reason == "late"

    @precondition(lambda self: self.late)
    @rule(pick=st.integers(0, 999))
    def deliver_after_the_round(self, pick: int) -> None:
        sent = self.late[pick % len(self.late)]
        with pytest.raises(PartRefused) as refusal:
            self.reducers[sent.key.span].offer(worker_of(sent.key.cluster, sent.key.rank), sent.key, sent.data)
        assert refusal.value.reason == "round"

    @rule(who=SOME)
    def follow(self, who: list[int]) -> None:
        for at in who:
            self.follow_one(self.workers[at])

    def follow_one(self, member: Worker) -> None:
        """The next record: apply it, then settle what was sent for it."""
        if member.round == len(self.log):
            return
        record = self.log[member.round]
        before = member.anchor.values.copy()

        def holds(span: Bounds) -> tuple[Fragment, ...]:
            return member.layout.fragments(member.rank, span)

        apply(member.anchor, record, holds, self.blobs.__getitem__, OuterStep())
        member.local += member.anchor.values - before
        for span, contributor in member.contributors.items():
            self.settle(member, span, contributor, record)
        member.round += 1

    def settle(self, member: Worker, span: int, contributor: Contributor, record: RoundRecord) -> None:
        inclusion = record.spans[span].inclusion(member.cluster)
        buffer = contributor.buffer.astype(np.float64)
        returned = contributor.settle(record.round, inclusion.clip_scale if inclusion else None)
        if returned.size:
            member.add(member.local, span, returned)
        sent = member.held.get(span)
        if sent is None or sent.key.round != record.round:
            assert inclusion is None
            return
        del member.held[span]
        if inclusion is None:
            return
        assert sent.key.sha256 in inclusion.parts
        values = decoded(sent.codec, sent.data, contributor.numel)
        taken = values * inclusion.clip_scale
        member.add(member.entered, span, taken)
        if record.flush:
            member.add(member.dropped, span, (buffer if self.feedback == "buffer" else sent.displacement) - taken)
        elif self.feedback == "buffer":
            member.add(member.dropped, span, values - taken)

    @rule(who=SOME)
    def restart(self, who: list[int]) -> None:
        """With its slice, its parts and what waits, as they were last written down."""
        for member in (self.workers[at] for at in who):
            for span, contributor in member.contributors.items():
                member.contributors[span] = restarted(contributor, self.feedback, 1.0)

    # Reducers and the coordinator.

    @rule(span=st.integers(0, SPANS - 1))
    def close(self, span: int) -> None:
        """At the deadline, with what has come."""
        reducer, bounds = self.reducers[span], self.plan.spans[span].bounds
        if reducer.should_close(self.plan.deadline_s, frozenset()):
            blob, report, dropped = reducer.reduce(self.residuals[span].take(bounds), self.update_codec)
            self.residuals[span].dropped(bounds, Made(report.term, report.digest), dropped)
            self.reports[span] = report
            self.blobs[report.digest] = blob
            if self.plan.spans[span].audited:
                self.audit(span, report)

    def audit(self, span: int, report: SpanReport) -> None:
        """Whoever has the same parts makes the same update, in whatever order they have come."""
        term = self.reducers[span].term
        auditor = self.reducer(span, term)
        sent = {sent.key: sent for sent in self.parts.values()}
        for key in sorted(self.taken[span, term], key=lambda key: key.sha256):
            auditor.offer(worker_of(key.cluster, key.rank), key, sent[key].data)
        _, audited, _ = auditor.reduce(None, self.update_codec)
        assert (audited.digest, audited.included) == (report.digest, report.included)

    @rule(span=st.integers(0, SPANS - 1))
    def kill(self, span: int) -> None:
        """Between "received" and commit: the backup has nothing until the senders send again."""
        bounds, heir = self.plan.spans[span].bounds, self.heirs[span]
        self.lost[bounds.start : bounds.stop] += waiting_in(self.residuals[span], bounds)
        self.residuals[span] = heir.residuals if heir else Residuals()
        self.reports[span] = self.heirs[span] = None
        self.reducers[span] = self.reducer(span, self.reducers[span].term + 1)

    @rule(span=st.integers(0, SPANS - 1))
    def leave(self, span: int) -> None:
        """In good order: the next reducer has what waits, but for what int8 rounds off."""
        bounds, residuals = self.plan.spans[span].bounds, self.residuals[span]
        found = residuals.leaving(bounds)
        if found is None or self.heirs[span] is not None:
            return
        values, update = found
        arrived = decoded(CODEC, bytes(CODEC.encode(values)), len(bounds)).astype(np.float32)
        heir = Heir(Residuals(), values.astype(np.float64) - arrived)
        if update is None:
            heir.residuals.add(bounds, arrived)
            self.lost[bounds.start : bounds.stop] += heir.rounded_off
            self.residuals[span] = heir.residuals
            self.reducers[span] = self.reducer(span, self.reducers[span].term + 1)
            self.reports[span] = None
        else:
            heir.residuals.promise(Promised(self.plan.round, bounds, update, arrived))
            self.heirs[span] = heir

    @rule(
        flush=st.booleans(),
        newcomer=st.sampled_from([None, *SHARES]),
        audited=AUDITED,
    )
    def commit(self, flush: bool, newcomer: ClusterId | None, audited: list[bool]) -> None:
        for span in range(SPANS):
            self.close(span)
        reports = [report for report in self.reports if report is not None]
        if len(reports) < SPANS:
            return
        record = record_of(self.plan, reports)
        for span in range(SPANS):
            bounds = self.plan.spans[span].bounds
            self.means[bounds.start : bounds.stop] += self.mean_of(self.plan, record, span)
        self.log.append(record)
        for span, heir in enumerate(self.heirs):
            bounds = self.plan.spans[span].bounds
            if heir is not None:
                self.lost[bounds.start : bounds.stop] += heir.rounded_off
                self.residuals[span] = heir.residuals
            self.residuals[span].settle(record)
        whole = Anchor(self.thetas[-1].copy())
        apply(whole, record, lambda span: WHOLE.fragments(Rank(0), span), self.blobs.__getitem__, OuterStep())
        self.thetas.append(whole.values)
        self.late += self.parts.values()
        self.parts = {}
        number = self.plan.round + 1
        most = {c: 0 if c == newcomer else 10**6 for c in SHARES}
        participants: list[Participant] = [participant_of(c, number, most_tokens=most[c]) for c in SHARES]
        self.plan: RoundPlan = plan_of(number, span_count=SPANS, participants=participants, flush=flush)
        spans = [
            span.model_copy(update={"audited": chosen}) for span, chosen in zip(self.plan.spans, audited, strict=True)
        ]
        self.plan = self.plan.model_copy(update={"spans": tuple(spans)})
        self.open_spans()

    def mean_of(self, plan: RoundPlan, record: RoundRecord, span: int) -> Exact:
        """What the record says was combined, by plain arithmetic."""
        bounds = plan.spans[span].bounds
        total, weights = np.zeros(len(bounds)), np.zeros(len(bounds))
        for inclusion in record.spans[span].included:
            found = []
            for rank in range(len(SHARES[inclusion.cluster])):
                sent = self.parts.get((span, inclusion.cluster, rank))
                if sent is None:
                    continue
                found.append(sent.key.sha256)
                fragments = fragments_of(plan, span, inclusion.cluster, rank)
                values = decoded(sent.codec, sent.data, sum(len(f.flat) for f in fragments))
                at = 0
                for f in fragments:
                    mine, where = values[at : at + len(f.flat)], slice(f.span_offset, f.span_offset + len(f.flat))
                    total[where] += mine * inclusion.tokens * inclusion.clip_scale
                    weights[where] += inclusion.tokens * ((mine != 0) | (self.mean_over == "participants"))
                    at += len(f.flat)
            assert tuple(found) == inclusion.parts
        return np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)

    @rule(
        who=SOME,
        codec=st.sampled_from(CODECS),
        killed=st.lists(st.integers(0, SPANS - 1), max_size=2),
        left=st.tuples(SOME_SPANS, SOME_SPANS, SOME_SPANS),
        flush=st.booleans(),
        newcomer=st.sampled_from([None, *SHARES]),
        seed=st.integers(0, 999),
        audited=AUDITED,
    )
    def whole_round(
        self,
        who: list[int],
        codec: AnyCodec,
        killed: list[int],
        left: tuple[list[int], list[int], list[int]],
        flush: bool,
        newcomer: ClusterId | None,
        seed: int,
        audited: list[bool],
    ) -> None:
        """From training to commit, with reducers that die after they have combined: random rules seldom get so far."""
        for at in who:
            while self.workers[at].round < len(self.log):
                self.follow_one(self.workers[at])
            self.train_one(self.workers[at], seed + at, 1e-2)
            self.contribute_one(self.workers[at], codec)
        for span in range(SPANS):
            self.deliver_all(span)
        for span in killed:
            self.close(span)
            self.kill(span)
            self.deliver_all(span)
        early, late, undelivered = left
        for span in early:
            self.leave(span)
            self.deliver_all(span)
        for span in late:
            self.close(span)
            self.leave(span)
        for span in undelivered:
            self.kill(span)
            self.deliver_all(span)
        self.commit(flush, newcomer, audited)

    # What is always true.

    @invariant()
    def work_is_neither_lost_nor_doubled(self) -> None:
        for member in self.workers:
            waiting = member.anchor.values.astype(np.float64) - member.local
            for span, contributor in member.contributors.items():
                if self.feedback == "buffer":
                    sent = member.held.get(span)
                    moved = 0.0 if sent is None else sent.displacement
                    member.add(waiting, span, contributor.buffer - moved)
            assert np.abs(member.done - member.entered - member.dropped - waiting).max() < TOLERANCE

    @invariant()
    def anchors_are_equal_bit_for_bit(self) -> None:
        for member in self.workers:
            theta = self.thetas[member.round]
            mine = member.layout.fragments(member.rank, Bounds(0, TOTAL))
            expected = np.concatenate([theta[f.flat.start : f.flat.stop] for f in mine])
            assert digest.root(digest.leaves(member.anchor.values)) == digest.root(digest.leaves(expected))

    @invariant()
    def anchors_are_what_the_log_combined(self) -> None:
        """But for what waits with the reducers, and what was lost with them."""
        waiting = np.concatenate(
            [
                waiting_in(residuals, span.bounds)
                for span, residuals in zip(self.plan.spans, self.residuals, strict=True)
            ]
        )
        moved = self.theta_0.astype(np.float64) - self.thetas[-1]
        assert np.abs(moved - (self.means - waiting - self.lost)).max() < TOLERANCE


Settlement.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSettlement = Settlement.TestCase
