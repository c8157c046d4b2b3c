"""Audits and handovers, from what workers report to the log and to GET /metrics, as JSON and for Prometheus."""

from typing import Any

import pytest
from round_workers import Bench, inclusion, plan_of

from legion.rounds import Handover, RoundPlan, RoundsPage
from tests.server.api.test_rounds_counted import CONFLICT, SOLO, TAKEN, counted, shape  # noqa: F401  a fixture

AUDITED = SOLO | {"rounds": SOLO["rounds"] | {"audit": 1.0}}


async def bench_of(house: Any, workers: int = 4) -> tuple[Bench, RoundPlan]:
    members = await house.start(workers, **AUDITED)
    return Bench(house, members), await plan_of(house, members[0])


async def audit(bench: Bench, plan: RoundPlan, span: int, **changes: Any) -> int:
    """The status of the answer to its auditor."""
    auditor = plan.spans[span].auditor
    assert auditor is not None
    report = bench.report_of(plan, span, audit=True, **changes)
    return (await bench.report(plan, report, bench.member(auditor))).status_code


async def whole(bench: Bench, plan: RoundPlan, *spans: int) -> None:
    """These spans, reduced and audited by honest workers."""
    for span in spans:
        assert await audit(bench, plan, span) == TAKEN
        await bench.deliver(plan, bench.report_of(plan, span))


async def records(house: Any, member: Any) -> RoundsPage:
    reply = await house.http.get("/training/rounds", headers=member.headers)
    return RoundsPage.model_validate_json(reply.content)


async def test_audits_that_pass(house: Any) -> None:
    bench, plan = await bench_of(house)
    await whole(bench, plan, *range(4))
    assert (await counted(house))["audits_passed"] == 4
    [record] = (await records(house, bench.members[0])).records
    assert [span.audit for span in record.spans] == ["passed"] * 4


async def test_a_reducer_that_lies_is_flagged_and_its_update_is_not_committed(house: Any) -> None:
    bench, plan = await bench_of(house)
    await whole(bench, plan, 1, 2, 3)
    lie = bench.report_of(plan, 0, digest="f" * 64)
    assert (await bench.report(plan, lie)).status_code == TAKEN
    assert await audit(bench, plan, 0) == TAKEN
    changed = await plan_of(house, bench.members[0])
    third = changed.reducer(0)
    assert changed.spans[0].audited
    assert third not in (plan.reducer(0), plan.spans[0].auditor)
    assert (await bench.report(plan, lie)).status_code == CONFLICT
    assert await audit(bench, plan, 0) == CONFLICT
    await bench.deliver(changed, bench.report_of(changed, 0, term=changed.term(0)))
    counts = await counted(house)
    assert (counts["audits_failed"], counts["audits_passed"], counts["terms_raised"]) == (1, 3, 1)
    [record] = (await records(house, bench.members[0])).records
    span = record.spans[0]
    assert (span.audit, span.reducer) == ("failed", third)
    assert span.disputed == (plan.reducer(0), plan.spans[0].auditor)
    assert span.digest != lie.digest


async def test_an_auditor_that_is_late_or_has_other_contributions(house: Any) -> None:
    bench, plan = await bench_of(house)
    await whole(bench, plan, 2, 3)
    some = tuple(inclusion(plan, 1, p) for p in plan.participants[1:])
    assert await audit(bench, plan, 1, included=some, digest="e" * 64) == TAKEN
    for span in (0, 1):
        await bench.deliver(plan, bench.report_of(plan, span))
    assert (await records(house, bench.members[0])).records == ()
    await house.tick(60.0)
    counts = await counted(house)
    assert (counts["audits_inconclusive"], counts["audits_silent"]) == (1, 1)
    assert await audit(bench, plan, 0) == CONFLICT
    [record] = (await records(house, bench.members[0])).records
    assert [span.audit for span in record.spans] == ["silent", "inconclusive", "passed", "passed"]


@pytest.mark.parametrize("change", [{"size_bytes": 10**9}, {"included": ()}])
async def test_what_an_auditor_may_say_is_checked(house: Any, change: dict[str, Any]) -> None:
    bench, plan = await bench_of(house)
    status = await audit(bench, plan, 0, **change)
    assert status == (422 if "size_bytes" in change else TAKEN)
    other = next(m for m in bench.members if m.worker_id not in (plan.spans[0].auditor, plan.reducer(0)))
    reply = await bench.report(plan, bench.report_of(plan, 0, audit=True), other)
    assert reply.status_code == CONFLICT
    digest = bench.report_of(plan, 0).digest
    reply = await bench.put(bench.member(plan.spans[0].auditor), digest)
    assert reply.status_code == 403  # it stores nothing


async def test_a_handover(house: Any) -> None:
    bench, plan = await bench_of(house)
    leaver, heir = plan.spans[0].reducers[:2]

    async def hand_over(member: Any, to: str, number: int = 0) -> int:
        body = Handover.model_validate({"round": number, "spans": [{"span": 0, "heir": to}]})
        path = f"/training/rounds/{plan.round}/handover"
        return int((await house.http.post(path, json=body.model_dump(), headers=member.headers)).status_code)

    assert await hand_over(bench.member(heir), heir) == CONFLICT
    assert await hand_over(bench.member(leaver), leaver) == CONFLICT
    assert await hand_over(bench.member(leaver), heir, number=3) == 422  # not what the path says
    for _ in range(2):
        assert await hand_over(bench.member(leaver), heir) == TAKEN
    counts = await counted(house)
    assert (counts["residuals_handed"], counts["conflicts"]) == (1, 2)
