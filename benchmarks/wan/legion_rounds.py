"""Rounds of Legion's peers, with this process as the coordinator: plans out, reports in, records out."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from legion.config import RoundsConfig
from legion.ids import ClusterId, Epoch, RunId, WorkerId
from legion.layout import Layout, spans
from legion.messages import Endpoint, Member, ModelShape, TensorShape, UnitShape
from legion.rounds import Blocks, Participant, RoundPlan, RoundRecord, SpanPlan, SpanRecord, SpanReport
from legion_client.engine.protocol import RoundNews
from legion_server.domain.rounds import span_count
from wan.network import Site
from wan.peers import Peers, Took

PROGRAM = Path(__file__).with_name("legion_peer.py")
RUN = RunId("run-wan")
PATIENCE_S = 300.0  # for one round


def config_of(codec: str) -> RoundsConfig:
    return RoundsConfig.model_validate({"steps": 1, "codec": codec, "update_codec": codec, "mean_over": "participants"})


class Coordinator:
    """Commits a round when every span is reported. It is half a round trip away from everybody, as they are."""

    def __init__(self, peers: Peers, members: list[Member], values: int, rtt_ms: float) -> None:
        self._peers = peers
        self._members = members
        self._rtt_s = rtt_ms / 1000
        self._shape = ModelShape(units=(UnitShape(name="values", tensors=(TensorShape(name="v", shape=(values,)),)),))

    def plan(self, number: int) -> RoundPlan:
        workers = [member.worker_id for member in self._members]
        total = Layout(self._shape.sizes, (1,)).total
        cut = spans(total, span_count(total, len(workers)))
        return RoundPlan(
            run_id=RUN,
            round=number,
            config_digest="0" * 64,
            shape=self._shape,
            steps=1,
            first_step=number,
            participants=tuple(
                Participant(
                    cluster=ClusterId(f"c{place}"),
                    epoch=Epoch(1),
                    members=(member,),
                    micro_batches=1,
                    blocks=_lease(number, place, len(workers)),
                    next_blocks=_lease(number + 1, place, len(workers)),
                    most_tokens=1,
                )
                for place, member in enumerate(self._members)
            ),
            spans=tuple(
                SpanPlan(start=bounds.start, stop=bounds.stop, reducers=_from(workers, place % len(workers)))
                for place, bounds in enumerate(cut)
            ),
            contribute_s=PATIENCE_S,
            deadline_s=PATIENCE_S,
        )

    def round(self, number: int, last: bool) -> Took:
        """Everybody contributes, and has moved."""
        self._peers.await_all("ready", PATIENCE_S)
        started_s = time.monotonic()
        self._peers.tell_all("go")
        plan = self.plan(number)
        reports: dict[int, SpanReport] = {}
        reduced_s = 0.0
        roots: list[str] = []
        moved: list[dict[str, Any]] = []
        while len(roots) < len(self._members) or len(moved) < len(self._members):
            said = self._peers.hear(PATIENCE_S)
            report = said.get("report", {})
            if "moved" in said:
                moved.append(said)
            elif report.get("kind") == "anchor_reached":
                roots.append(report["report"]["root"])
            elif report.get("kind") == "span_reduced":
                reduced = SpanReport.model_validate(report["report"])
                reports[reduced.span] = reduced
                if len(reports) == len(plan.spans):
                    reduced_s = time.monotonic() - started_s
                    time.sleep(self._rtt_s)  # the report's way here, and the record's way back
                    self._commit(plan, [reports[span] for span in sorted(reports)], last)
            else:
                self._peers.keep(said)
        times = {key: max(m[key] for m in moved) - started_s for key in ("encoded_s", "here_s", "done_s")}
        times = {"encoded_s": times["encoded_s"], "reduced_s": reduced_s, **times}
        return Took(times["done_s"], len(set(roots)), max(m["error"] for m in moved), times)

    def _commit(self, plan: RoundPlan, reports: list[SpanReport], last: bool) -> None:
        record = RoundRecord(
            run_id=RUN,
            round=plan.round,
            spans=tuple(SpanRecord.of(report, plan.reducer(report.span)) for report in reports),
            bounds=tuple((span.start, span.stop) for span in plan.spans),
            tokens=len(self._members),
            total_tokens=len(self._members) * (plan.round + 1),
            committed_at=0.0,
        )
        following = () if last else (self.plan(plan.round + 1),)
        self._peers.tell_all(RoundNews(records=(record,), plans=following).model_dump(mode="json"))


def _from(workers: list[WorkerId], place: int) -> tuple[WorkerId, ...]:
    return (*workers[place:], *workers[:place])


def _lease(number: int, place: int, peers: int) -> Blocks:
    start = number * peers + place
    return Blocks(start=start, stop=start + 1)


def measure(sites: Sequence[Site], folder: Path, *, codec: str, values: int, rounds: int, rtt_ms: float) -> list[Took]:
    """`rounds` rounds of one codec, the first of which opens the connections. `folder` holds identities 0, 1, ..."""
    from identities import issue

    identities = issue(folder / "authority", len(sites))
    for place, identity in enumerate(identities):
        identity.save(folder / str(place))
    commands = [[str(PROGRAM), site.address, str(place), str(folder / str(place))] for place, site in enumerate(sites)]
    with Peers(sites, commands) as peers:
        ports = peers.await_all("port", PATIENCE_S)
        members = [
            Member(worker_id=identity.worker_id, endpoint=Endpoint(host=site.address, port=port), share=1)
            for identity, site, port in zip(identities, sites, ports, strict=True)
        ]
        coordinator = Coordinator(peers, members, values, rtt_ms)
        config = json.loads(config_of(codec).model_dump_json())
        opening = {"plan": coordinator.plan(0).model_dump(mode="json"), "config": config, "rounds": rounds}
        peers.tell_all(opening)
        took = []
        for number in range(rounds):
            sent = [site.sent_bytes() for site in sites]
            took.append(coordinator.round(number, number + 1 == rounds))
            took[-1].sent_bytes = [site.sent_bytes() - before for site, before in zip(sites, sent, strict=True)]
    return took
