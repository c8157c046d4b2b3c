"""What workers are told of their credit: of rounds by the ledger, of steps by their records; and nobody else's."""

from typing import Any

from round_workers import Bench

from tests.server.service.test_coordinator import record

PAIRS: dict[str, Any] = {"cluster": {"policy": "fixed", "size": 2}, "rounds": {"steps": 2, "audit": 0.0}}


async def credit(house: Any, member: Any) -> tuple[int, int | None, int]:
    reply = await house.http.get(f"/workers/{member.worker_id}/credit", headers=member.headers)
    assert reply.status_code == 200, reply.text
    view = reply.json()
    return view["tokens"], view["rank"], view["workers"]


async def test_a_committed_round_is_credited(house: Any) -> None:
    bench = Bench(house, await house.start(4, **PAIRS))
    assert [await credit(house, member) for member in bench.members] == [(0, None, 0)] * 4
    for rounds in (1, 2):
        plan = await bench.play()
        tokens = plan.participants[0].most_tokens // 2
        assert [await credit(house, member) for member in bench.members] == [(rounds * tokens, 1, 4)] * 4


async def test_without_rounds_steps_are_credited(house: Any) -> None:
    one, two = await house.start(2)
    for member, tokens in ((one, 30), (two, 10)):
        body = {"epoch": 1, "steps": [record(step=step, tokens=tokens) for step in (1, 2)]}
        assert (await house.http.post("/metrics", json=body, headers=member.headers)).status_code == 204
    assert await credit(house, one) == (60, 1, 2)
    assert await credit(house, two) == (20, 2, 2)


async def test_credit_is_its_workers_and_the_admins_to_see(house: Any) -> None:
    one, two = await house.start(2)
    path = f"/workers/{one.worker_id}/credit"
    assert (await house.http.get(path, headers=two.headers)).status_code == 403
    assert (await house.http.get(path)).status_code == 401
    assert (await house.admin.get(f"/workers/{'z' * 32}/credit")).status_code == 404
    assert (await house.admin.get(path)).json() == {
        "run_id": house.backend.coordinator.run.run_id,
        "tokens": 0,
        "rank": None,
        "workers": 0,
    }
