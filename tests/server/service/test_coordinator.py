"""The only writer: what could not be saved did not happen, and what nobody should believe is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from legion.errors import StorageFailed
from legion.messages import PROTOCOL


def record(**changes: Any) -> dict[str, Any]:
    floats = dict.fromkeys(("loss", "grad_norm", "lr", "step_s", "compute_s", "waiting_s"), 1.0)
    counts = ("step_tokens", "tokens", "micro_batches", "sent_bytes", "received_bytes", "peak_rss_bytes", "state_bytes")
    return floats | dict.fromkeys(counts, 1) | {"step": 1} | changes


async def test_what_cannot_be_saved_did_not_happen(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    member = await house.join()
    before, events = house.backend.coordinator.state, house.backend.events.last

    async def full(_: Any) -> None:
        raise StorageFailed("the database cannot be used: disk is full")

    monkeypatch.setattr(house.backend.store, "save", full)
    reply = await member.beat("ready")
    assert (reply.status_code, reply.json()["slug"]) == (507, "storage-failed")
    assert house.backend.coordinator.state == before
    assert house.backend.events.last == events
    monkeypatch.undo()
    assert (await member.beat("ready")).json()["phase"] == "training"


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "NaN"},
        {"loss": math.inf},
        {"tokens": 2**63},
        {"tokens": -1},
        {"step": 2**31},
        {"sent_bytes": 10**30},
        {"unknown": 1},
    ],
)
async def test_numbers_nobody_could_have_are_refused(house: Any, change: dict[str, Any]) -> None:
    (member,) = await house.start(1)
    text = str(record(**change)).replace("'", '"').replace('"NaN"', "NaN").replace("inf", "Infinity")
    reply = await house.http.post(
        "/metrics",
        content=f'{{"epoch": 1, "steps": [{text}]}}',
        headers=member.headers | {"Content-Type": "application/json"},
    )
    assert (reply.status_code, reply.json()["slug"]) == (422, "unusable")
    assert (await house.http.get("/metrics")).json()["recent"] == []


async def test_steps_beyond_the_run_are_not_counted(house: Any) -> None:
    (member,) = await house.start(1)
    body = {"epoch": 1, "steps": [record(step=step) for step in (0, 1, 8, 9, 10**6)]}
    assert (await house.http.post("/metrics", json=body, headers=member.headers)).status_code == 204
    view = (await house.http.get("/metrics")).json()
    assert [step["step"] for step in view["recent"]] == [1, 8]
    assert view["step"] == 8


def evaluated(step: int, loss: float = 2.0) -> dict[str, Any]:
    return {"step": step, "loss": loss, "tokens": 10}


async def test_evaluations_beyond_the_run_are_not_counted(house: Any) -> None:
    (member,) = await house.start(1)
    body = {"epoch": 1, "evaluations": [evaluated(step) for step in (2**31 - 1, 9, 8, 4, 0)]}
    assert (await house.http.post("/metrics", json=body, headers=member.headers)).status_code == 204
    assert (await house.http.get("/metrics")).json()["evaluations"] == [evaluated(4), evaluated(8)]


async def test_an_evaluation_is_announced_once_and_again_when_its_past_was_given_up(house: Any) -> None:
    members = await house.start(3)
    events = house.backend.events
    stream = events.follow(events.last, private=True)

    async def told() -> list[int]:
        await house.join()  # the event behind which nothing of the report can come
        steps = []
        while (event := await anext(stream)).type != "worker_joined":
            steps += [event.data["step"]] if event.type == "evaluation" else []
        return steps

    for member in members:
        body = {"epoch": 1, "evaluations": [evaluated(4), evaluated(2)]}
        await house.http.post("/metrics", json=body, headers=member.headers)
    assert await told() == [2, 4]
    await house.backend.steering.resume()
    for member in members:
        await member.beat("ready")
    for member in members:
        await house.http.post("/metrics", json={"epoch": 2, "evaluations": [evaluated(2)]}, headers=member.headers)
    assert await told() == [2]


@pytest.mark.parametrize("host", ["unix:/tmp/socket", "dns:///x", "a b", "", "x" * 300, "fe80::1%eth0", "\u0000"])
async def test_only_names_and_addresses_are_endpoints(house: Any, host: str) -> None:
    member = await house.join()
    body = {"protocol": PROTOCOL, "state": "preparing", "endpoint": {"host": host, "port": 1}}
    reply = await house.http.post(f"/workers/{member.worker_id}/heartbeat", json=body, headers=member.headers)
    assert reply.status_code == 422


@pytest.mark.parametrize("state", ["revoked", "offline"])
async def test_a_worker_does_not_declare_itself_away(house: Any, state: str) -> None:
    member = await house.join()
    assert (await member.beat(state)).status_code == 422


async def test_what_workers_say_cannot_forge_log_lines(house: Any) -> None:
    (member,) = await house.start(1)
    lie = "oops\n12:00:00 INFO all is well\x1b[2J" + "x" * 1000
    await member.beat("leaving", epoch=1, failure="engine-died", failure_message=lie)
    failure = (await house.admin.get("/metrics")).json()["failure"]
    assert "oops 12:00:00" in failure
    assert failure.isprintable()
    assert len(failure) < 800


async def test_workers_get_new_patience_after_a_restart(
    settings: Any, clock: Any, open_house: Callable[..., Any]
) -> None:
    house, close = await open_house(settings, clock)
    await house.start(1)
    await close()
    clock.now += 3600
    house, close = await open_house(settings, clock)
    await house.tick(89)
    assert house.backend.coordinator.run.phase == "training"
    await house.tick(2)
    assert house.backend.coordinator.run.phase == "failed"
    await close()


async def test_events_go_on_counting_after_a_restart(settings: Any, clock: Any, open_house: Callable[..., Any]) -> None:
    house, close = await open_house(settings, clock)
    await house.join()
    last = house.backend.events.last
    await close()
    house, close = await open_house(settings, clock)
    assert house.backend.events.last == last
    stream = house.backend.events.follow(0, private=True)
    assert [(await anext(stream)).type for _ in range(2)] == ["phase", "worker_joined"]
    await house.join()
    assert house.backend.events.last == last + 1
    await close()


async def test_resuming_at_start(settings: Any, clock: Any, open_house: Callable[..., Any]) -> None:
    house, close = await open_house(settings, clock)
    await house.start(1)
    await close()
    house, close = await open_house(settings, clock, resume=True)
    run = house.backend.coordinator.run
    assert (run.phase, run.plan, run.first_step, run.started) == ("waiting", None, 0, True)
    assert (await house.http.get("/workers")).json()["by_state"] == {"offline": 1}
    await close()


async def test_only_one_server_uses_a_data_folder(
    house: Any, settings: Any, clock: Any, open_house: Callable[..., Any]
) -> None:
    with pytest.raises(StorageFailed, match="in use by another server"):
        await open_house(settings, clock)


@pytest.mark.parametrize("by_s", [3600.0, -3600.0, -1e9])
async def test_a_clock_that_jumps_takes_nobody_for_lost_and_hides_nobody_who_is(
    settings: Any, clock: Any, open_house: Callable[..., Any], caplog: pytest.LogCaptureFixture, by_s: float
) -> None:
    passed = [0.0]
    house, close = await open_house(settings, clock, steady=lambda: passed[0])

    async def wait(seconds: float) -> None:
        passed[0] += seconds
        await house.tick(seconds)

    def is_there() -> bool:
        worker = house.backend.coordinator.state.workers[member.worker_id]
        return bool(worker.state != "offline")

    try:
        member = await house.join()
        await member.beat("joining")
        await wait(30)
        house.clock.now += by_s  # somebody sets it
        await wait(1)
        assert is_there()
        assert f"clock jumped, everybody gets new patience by_s={by_s:.0f}" in caplog.text
        await wait(89)
        assert is_there()
        await wait(5)
        assert not is_there(), "silent for 90 s since, whatever the clock says"
    finally:
        await close()
