"""Workers of a run in rounds, without engines: they train nothing and reduce noise, by the book."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from legion.codec.registry import by_name
from legion.layout import Bounds, Fragment
from legion.outer.log import Anchor, OuterStep, apply, blob_of
from legion.rounds import Inclusion, Participant, RoundPlan, RoundRecord, SpanReport


async def plan_of(house: Any, member: Any = None) -> RoundPlan:
    headers = member.headers if member else house.admin.headers
    reply = await house.http.get("/training/rounds/plan", headers=headers)
    assert reply.status_code == 200, reply.text
    return RoundPlan.model_validate_json(reply.content)


def inclusion(plan: RoundPlan, span: int, participant: Participant, seq_len: int = 16, **changes: Any) -> Inclusion:
    """All of a participant's blocks, in parts whose names nobody looks behind."""
    layout, bounds = participant.layout(plan.shape), plan.spans[span].bounds
    meeting = [rank for rank in layout.ranks if layout.fragments(rank, bounds)]
    body: dict[str, Any] = {
        "cluster": participant.cluster,
        "parts": tuple(hashlib.sha256(f"{span}:{rank}".encode()).hexdigest() for rank in meeting),
        "tokens": min(participant.most_tokens, len(participant.blocks) * seq_len),
        "blocks": (participant.blocks,),
    }
    return Inclusion.model_validate(body | changes)


@dataclass
class Bench:
    """Reduces spans in the name of whoever has to, and keeps what was made of them."""

    house: Any
    members: list[Any]
    blobs: dict[str, bytes] = field(default_factory=dict)
    nonsense: bool = False  # updates that nobody can decode

    def member(self, worker_id: str) -> Any:
        return next(member for member in self.members if member.worker_id == worker_id)

    def update(self, plan: RoundPlan, span: int) -> bytes:
        """Some update of the span, the same for the same round, span and term's reducer."""
        draw = np.random.default_rng((plan.round, span))
        values = draw.normal(size=len(plan.spans[span].bounds)).astype(np.float32)
        blob = b"nonsense" if self.nonsense else blob_of(by_name("int8"), values * np.float32(0.01))
        self.blobs[hashlib.sha256(blob).hexdigest()] = blob
        return blob

    def report_of(self, plan: RoundPlan, span: int, term: int = 0, **changes: Any) -> SpanReport:
        blob = self.update(plan, span)
        body: dict[str, Any] = {
            "round": plan.round,
            "span": span,
            "term": term,
            "digest": hashlib.sha256(blob).hexdigest(),
            "size_bytes": len(blob),
            "included": tuple(inclusion(plan, span, p) for p in plan.participants if p.most_tokens),
        }
        return SpanReport.model_validate(body | changes)

    async def report(self, plan: RoundPlan, report: SpanReport, member: Any = None) -> httpx.Response:
        member = member or self._reducer(plan, report)
        return await self.house.http.post(
            f"/training/rounds/{report.round}/spans", json=report.model_dump(mode="json"), headers=member.headers
        )

    async def put(self, member: Any, digest: str, content: bytes | None = None) -> httpx.Response:
        body = self.blobs[digest] if content is None else content
        return await self.house.http.put(f"/blobs/{digest}", content=body, headers=member.headers)

    async def deliver(self, plan: RoundPlan, report: SpanReport) -> None:
        """The report, and the update."""
        for reply in (await self.report(plan, report), await self.put(self._reducer(plan, report), report.digest)):
            assert reply.status_code == 204, reply.text

    def _reducer(self, plan: RoundPlan, report: SpanReport) -> Any:
        return self.member(plan.spans[report.span].reducers[report.term])

    async def play(self, *, upload: bool = True) -> RoundPlan:
        """One round, from its plan to its commit; without `upload`, to its reports."""
        plan = await plan_of(self.house, self.members[0])
        for span in range(len(plan.spans)):
            report = self.report_of(plan, span)
            reply = await self.report(plan, report)
            assert reply.status_code == 204, reply.text
            if upload:
                reply = await self.put(self.member(plan.spans[span].reducers[0]), report.digest)
                assert reply.status_code == 204, reply.text
        return plan

    def applied(self, theta: np.ndarray, record: RoundRecord) -> None:
        """The whole space at once, in place."""

        def whole(bounds: Bounds) -> tuple[Fragment, ...]:
            return (Fragment(bounds, bounds.start, 0),)

        apply(Anchor(theta), record, whole, self.blobs.__getitem__, OuterStep())
