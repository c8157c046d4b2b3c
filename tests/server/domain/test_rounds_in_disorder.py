"""Rounds as a state machine: whoever dies, is silent, lies or repeats, the log goes on and blocks are counted once."""

from typing import Any

import pytest
from coordinated_rounds import SEQ_LEN, Table, a_worker, config_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from round_workers import inclusion

from legion.errors import RoundConflict
from legion.ids import Epoch, WorkerId
from legion.rounds import Blocks, HandedSpan, Handover, Participant
from legion_server.domain import handovers, round_plan
from legion_server.domain import rounds as rd
from legion_server.domain.leases import Ranges
from legion_server.store import round_parts


def numbers(ranges: Ranges) -> list[int]:
    return [n for one in ranges for n in range(one.start, one.stop)]


class Disorder(RuleBasedStateMachine):
    """Workers come, die, are silent and report, in any order."""

    names = "abcdef"

    @initialize(
        size=st.sampled_from([1, 2]),
        earlier=st.sampled_from([0, 1, 2, round_plan.MOST_EARLIER]),
        share=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def start(self, size: int, earlier: int, share: float) -> None:
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(round_plan, "MOST_EARLIER", earlier)
        self.table = Table(config_of(4, size, audit=share), "abcd")
        self.size = size
        self.published: dict[tuple[int, int], Any] = {}
        self.delivered: dict[int, set[int]] = {}  # blocks by span
        self.counted_rounds = 0
        self.saved: rd.Rounds | None = None
        self.rows: dict[str, str] = {}

    def teardown(self) -> None:
        self.patched.undo()

    @rule(name=st.sampled_from(names))
    def dies(self, name: str) -> None:
        if WorkerId(name * 32) in self.table.workers:
            self.table.set(name, state="offline", endpoint=None)

    @rule(name=st.sampled_from(names))
    def gets_ready(self, name: str) -> None:
        known = self.table.workers.get(WorkerId(name * 32))
        epoch = known.epoch if known else Epoch(0)
        self.table.workers[WorkerId(name * 32)] = a_worker(name, dropped_epoch=epoch)
        self.table.tick()

    @rule()
    def everybody_follows(self) -> None:
        self.table.follow()
        self.table.tick()

    @rule(after_s=st.sampled_from([1.0, 50.0, 200.0]))
    def time_passes(self, after_s: float) -> None:
        self.table.tick(after_s)

    @precondition(lambda self: self.table.rounds.plan is not None)
    @rule(data=st.data())
    def reports(self, data: st.DataObject) -> None:
        plan = self.table.plan
        span = data.draw(st.integers(0, len(plan.spans) - 1))
        some = [p for p in plan.participants if p.most_tokens and data.draw(st.booleans())]
        included = tuple(inclusion(plan, span, p, SEQ_LEN, **self.work_of(p, data)) for p in some)
        digest = data.draw(st.sampled_from("ab"))
        worker = data.draw(st.sampled_from([plan.reducer(span), *plan.workers]))
        stored = data.draw(st.booleans())
        refusal = self.table.report(span, worker, stored=stored, digest=digest, included=included)
        assert refusal is None or worker != plan.reducer(span) or isinstance(refusal, RoundConflict)

    @precondition(lambda self: self.table.rounds.plan is not None)
    @rule(data=st.data())
    def audits(self, data: st.DataObject) -> None:
        plan = self.table.plan
        span = data.draw(st.integers(0, len(plan.spans) - 1))
        auditor = plan.spans[span].auditor
        worker = data.draw(st.sampled_from([auditor or plan.reducer(span), *plan.workers]))
        reported = self.table.rounds.turns[span].report
        included = reported.included if reported and data.draw(st.booleans()) else ()
        digest = data.draw(st.sampled_from("ab"))
        refusal = self.table.report(span, worker, stored=False, audit=True, digest=digest, included=included)
        assert refusal is None or isinstance(refusal, RoundConflict)
        assert refusal is not None or worker == auditor

    @precondition(lambda self: self.table.rounds.plan is not None)
    @rule(data=st.data())
    def hands_over(self, data: st.DataObject) -> None:
        plan = self.table.plan
        span = data.draw(st.integers(0, len(plan.spans) - 1))
        worker, heir = (data.draw(st.sampled_from([*plan.workers, *plan.spans[span].reducers])) for _ in range(2))
        handed = HandedSpan(span=span, heir=heir, update=data.draw(st.sampled_from([None, "a" * 64])))
        verdict = handovers.accept(self.table.rounds, worker, Handover(round=plan.round, spans=(handed,)))
        assert verdict.refusal is None or isinstance(verdict.refusal, RoundConflict)
        self.table.rounds_or_none = verdict.rounds
        self.table.tick()

    @precondition(lambda self: self.table.rounds.plan is not None)
    @rule(data=st.data())
    def all_reducers_report(self, data: st.DataObject) -> None:
        number, count = self.table.plan.round, len(self.table.plan.spans)
        some = [p for p in self.table.plan.participants if p.most_tokens and data.draw(st.booleans())]
        work = {p.cluster: self.work_of(p, data) for p in some}
        for span in range(count):
            if self.table.rounds.plan is None or self.table.plan.round != number:
                return
            included = tuple(inclusion(self.table.plan, span, p, SEQ_LEN, **work[p.cluster]) for p in some)
            refusal = self.table.report(span, included=included)
            assert refusal is None or isinstance(refusal, RoundConflict)  # another digest was there

    def work_of(self, participant: Participant, data: st.DataObject) -> dict[str, Any]:
        """Part of this round's blocks, and of those that were leased before."""
        lease = participant.blocks
        stop = data.draw(st.integers(lease.start + 1, lease.stop))
        named = [Blocks(start=lease.start, stop=stop)]
        named += [earlier for earlier in participant.earlier if data.draw(st.booleans())]
        tokens = min(participant.most_tokens, SEQ_LEN * sum(map(len, named)))
        return {"blocks": tuple(named), "tokens": tokens}

    @rule(digest=st.sampled_from("ab"))
    def comes_into_storage(self, digest: str) -> None:
        self.table.rounds_or_none = rd.stored(self.table.rounds, digest * 64)
        self.table.tick()

    @invariant()
    def an_auditor_is_somebody_else_and_alone_excludes_nobody(self) -> None:
        rounds = self.table.rounds
        for span in rounds.plan.spans if rounds.plan else ():
            assert span.auditor is None or (span.audited and span.auditor != span.reducers[0])
        assert all(worker not in others for worker, others in rounds.suspects.items())
        assert all(len(set(rounds.suspects[worker])) >= 2 for worker in rounds.barred)

    @invariant()
    def the_log_has_no_gap(self) -> None:
        records = self.table.records
        assert [record.round for record in records] == list(range(self.table.rounds.committed))
        totals = [record.total_tokens for record in records]
        assert totals == sorted(totals)

    @invariant()
    def what_changed_is_enough_to_store(self) -> None:
        written, gone = round_parts.changed(self.saved, self.table.rounds)
        self.rows = {name: row for name, row in self.rows.items() if name not in gone} | written
        self.saved = self.table.rounds
        assert round_parts.joined(self.rows) == self.saved

    @invariant()
    def a_block_counts_once_in_a_span(self) -> None:
        for record in self.table.records[self.counted_rounds :]:
            for number, span in enumerate(record.spans):
                before = self.delivered.setdefault(number, set())
                for contribution in span.included:
                    new = set(numbers(contribution.blocks)) - before
                    assert contribution.tokens <= SEQ_LEN * len(new)
                    before |= new
        self.counted_rounds = len(self.table.records)

    @invariant()
    def blocks_are_leased_once_at_a_time(self) -> None:
        seats = self.table.rounds.seats.values()
        held = [n for seat in seats for ranges in seat.leases.values() for n in numbers(ranges)]
        free = numbers(self.table.rounds.pool.returned)
        assert len(set(held)) == len(held)
        assert not set(held) & set(free)

    @invariant()
    def no_lease_is_kept_forever(self) -> None:
        rounds = self.table.rounds
        kept = round_plan.MOST_EARLIER + 2  # this round's and the next one's
        if rounds.plan is not None:
            assert all(len(rounds.seats[p.cluster].leases) <= kept for p in rounds.plan.participants)

    @invariant()
    def a_plan_has_one_meaning(self) -> None:
        """The same round and revision is the same plan, and newer ones have higher numbers."""
        plan = self.table.rounds.plan
        if plan is not None:
            assert self.published.setdefault((plan.round, plan.revision), plan) == plan
            assert (plan.round, plan.revision) == max(self.published)
            assert plan.round == self.table.rounds.committed

    @invariant()
    def somebody_is_to_reduce_every_span(self) -> None:
        plan, run = self.table.rounds.plan, self.table.run
        if plan is None or run.phase != "training":
            return
        live = rd.live_workers(plan, run.clusters)
        turns = enumerate(self.table.rounds.turns)
        assert not live or all(plan.reducer(span) in live or (t.report and t.stored) for span, t in turns)

    @invariant()
    def clusters_are_whole_and_apart(self) -> None:
        members = [m.worker_id for plan in self.table.run.clusters for m in plan.members]
        assert len(set(members)) == len(members)
        assert all(len(plan.members) == self.size for plan in self.table.run.clusters)

    @invariant()
    def whoever_can_train_trains(self) -> None:
        """No state from which nothing but a miracle leads on: with clusters there, somebody is in the round."""
        plan, run = self.table.rounds.plan, self.table.run
        if run.phase == "training" and run.clusters:
            assert plan is not None
            assert rd.live_workers(plan, run.clusters)


TestDisorder = Disorder.TestCase
TestDisorder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
