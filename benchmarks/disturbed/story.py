"""What the log of a run says: whose work entered anchors, whose was left out, and whether all had the same anchors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from disturbed.volunteers import Site, Worker
from legion.ids import ClusterId, WorkerId
from legion.reports import MetricsView
from legion.rounds import Blocks, RoundPlan, RoundRecord


class LeftOut(NamedTuple):
    """Of the contributions (a cluster's for a span) that plans speak of, newcomers' apart, which never count."""

    missing: int
    of: int


class Committed(NamedTuple):
    """Of one worker, in tokens. A round's figure is the mean over its spans, by their sizes."""

    counted: float  # by these its work was weighed
    delivered: float  # in the blocks that included contributions name, repetitions once


class Anchors(NamedTuple):
    compared: int
    mismatches: int
    at_the_last: int  # workers that have reached the last anchor, and have it right


@dataclass(frozen=True, slots=True)
class Story:
    """Everything after the end. `wall_s` from the first plan to the last record."""

    metrics: MetricsView
    records: Sequence[RoundRecord]
    plans: Mapping[int, RoundPlan]
    roots: Mapping[str, Sequence[tuple[int, str]]]  # by worker: round and root
    wall_s: float
    tracebacks: int
    starts: int

    @property
    def loss(self) -> float:
        """Of the last anchor, in nats per token. RuntimeError when nobody told, or not all the same."""
        last = max(record.step for record in self.metrics.evaluations)
        found = {record.loss for record in self.metrics.evaluations if record.step == last}
        if last < self.metrics.steps or len(found) > 1:
            raise RuntimeError(f"the last anchor's loss is not known: {found} after {last} of {self.metrics.steps}")
        return found.pop()

    def left_out(self) -> LeftOut:
        missing = of = 0
        for record in self.records:
            able = [p for p in self.plans[record.round].participants if p.most_tokens > 0]
            of += len(able) * len(record.spans)
            missing += sum(span.inclusion(p.cluster) is None for p in able for span in record.spans)
        return LeftOut(missing, of)

    def anchors(self) -> Anchors:
        """Each root that a worker wrote down against the one the assembler computed.

        Of clusters of one: who has a slice wrote down that slice's, which the server compares.
        """
        reference = {record.round + 1: record.root for record in self.records}
        last = max(reference)
        roots = [entry for entries in self.roots.values() for entry in entries]
        wrong = sum(reference[number] != root for number, root in roots)
        return Anchors(len(roots), wrong, sum((last, reference[last]) in entries for entries in self.roots.values()))

    def committed(self, worker: Worker, seq_len: int) -> Committed:
        counted = delivered = 0.0
        seen: dict[tuple[int, int], set[int]] = {}
        for record in self.records:
            name = self._cluster_of(worker, record.round)
            whole = record.bounds[-1][1]
            for (start, stop), span in zip(record.bounds, record.spans, strict=True):
                inclusion = span.inclusion(name) if name else None
                if inclusion is None:
                    continue
                known = seen.setdefault((start, stop), set())
                new = _numbers(inclusion.blocks) - known
                known |= new
                share = (stop - start) / whole
                counted += share * inclusion.tokens
                delivered += share * len(new) * seq_len
        return Committed(counted, delivered)

    def _cluster_of(self, worker: Worker, round_number: int) -> ClusterId | None:
        participant = self.plans[round_number].of_worker(WorkerId(worker.worker_id))
        return participant.cluster if participant else None


async def told(site: Site, wall_s: float) -> Story:
    """Of a run whose workers have ended."""
    records, plans = await site.log_since(0)
    logs = [site.log(name) for name in ("server", *(worker.name for worker in site.workers))]
    return Story(
        metrics=await site.metrics(),
        records=records,
        plans=plans,
        roots={worker.name: worker.roots() for worker in site.workers},
        wall_s=wall_s,
        tracebacks=sum(log.count("Traceback") for log in logs),
        starts=sum(worker.starts for worker in site.workers),
    )


def _numbers(blocks: Sequence[Blocks]) -> set[int]:
    return {number for each in blocks for number in range(each.start, each.stop)}
