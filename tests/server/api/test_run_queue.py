"""Runs over the API: paused and resumed, stopped, queued, and one after the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from legion_server.settings import Settings

LOCKED, INVALID, FORBIDDEN, MISSING, CREATED, GONE = 409, 422, 403, 404, 201, 204


async def steer(house: Any, what: str) -> Any:
    return await house.admin.post(f"/runs/{what}")


async def queue(house: Any, **change: Any) -> str:
    reply = await house.admin.post("/runs", json=change)
    assert reply.status_code == CREATED, reply.text
    return str(reply.json()["summary"]["run_id"])


async def listed(house: Any) -> dict[str, Any]:
    return dict((await house.http.get("/runs")).json())


async def test_a_paused_run_of_one_cluster_misses_nobody(house: Any) -> None:
    a, b = await house.start(2)
    assert (await steer(house, "pause")).json()["phase"] == "paused"
    reply = (await a.beat("paused", epoch=1, step=2)).json()
    assert (reply["phase"], reply["epoch"], reply["run_id"]) == ("paused", 1, house.backend.coordinator.run.run_id)
    await b.beat("paused", epoch=1, step=2)
    await house.tick(30.0)
    assert (await steer(house, "pause")).status_code == 200
    assert (await steer(house, "resume")).json()["phase"] == "training"
    assert house.backend.coordinator.run.plan.epoch == 1


async def test_a_paused_run_of_one_cluster_outlives_its_members(house: Any) -> None:
    a, b = await house.start(2)
    for member in (a, b):
        await member.beat("paused", epoch=1)
    await steer(house, "pause")
    await a.beat("joining")
    await house.tick()
    run = house.backend.coordinator.run
    assert (run.phase, run.plan is None) == ("paused", False)
    await b.beat("joining")
    run = house.backend.coordinator.run
    assert (run.phase, run.plan) == ("paused", None)
    await a.beat("ready")
    await b.beat("ready")
    assert house.backend.coordinator.run.phase == "paused"
    assert (await steer(house, "resume")).json()["phase"] == "training"
    assert house.backend.coordinator.run.epoch == 2


async def test_a_run_that_was_paused_goes_back_for_a_member_that_left(house: Any) -> None:
    a, b = await house.start(2)
    for member in (a, b):
        await member.beat("paused", epoch=1)
    await steer(house, "pause")
    await a.beat("joining")
    assert (await steer(house, "resume")).json()["phase"] == "waiting"
    for member in (a, b):
        await member.beat("ready")
    assert house.backend.coordinator.run.phase == "training"


async def test_what_cannot_be_paused_or_stopped(house: Any) -> None:
    assert (await steer(house, "pause")).json()["phase"] == "paused"
    assert (await steer(house, "resume")).json()["phase"] == "waiting"
    assert (await steer(house, "stop")).json()["phase"] == "stopped"
    assert (await steer(house, "stop")).json()["phase"] == "stopped"
    for what in ("pause", "resume"):
        reply = await steer(house, what)
        assert (reply.status_code, reply.json()["slug"]) == (LOCKED, "run")
    member = await house.join()
    for what in ("pause", "resume", "stop"):
        assert (await member.http.post(f"/runs/{what}", headers=member.headers)).status_code == FORBIDDEN


async def test_the_queue_is_kept_in_order_and_changed(house: Any) -> None:
    await house.configure()
    first, second = await queue(house, steps=20), await queue(house, num_steps=30)
    view = await listed(house)
    assert view["active"]["state"] == "active"
    assert [(one["run_id"], one["place"], one["steps"]) for one in view["queued"]] == [(first, 1, 20), (second, 2, 30)]
    reply = await house.admin.patch(f"/runs/{second}", json={"place": 1, "config": {"steps": 31}})
    assert (reply.json()["summary"]["place"], reply.json()["config"]["steps"]) == (1, 31)
    assert [one["run_id"] for one in (await listed(house))["queued"]] == [second, first]
    reply = await house.admin.patch(f"/runs/{second}", json={"config": {"steps": 0}})
    assert (reply.status_code, reply.json()["slug"]) == (INVALID, "config-invalid")
    assert (await house.http.get(f"/runs/{second}")).json()["config"]["steps"] == 31
    assert (await house.admin.delete(f"/runs/{second}")).status_code == GONE
    assert [one["run_id"] for one in (await listed(house))["queued"]] == [first]


async def test_what_is_not_in_the_queue_cannot_be_changed(house: Any) -> None:
    await house.configure()
    active = house.backend.coordinator.run.run_id
    assert (await house.admin.patch(f"/runs/{active}", json={"place": 1})).status_code == LOCKED
    assert (await house.admin.delete(f"/runs/{active}")).status_code == MISSING
    assert (await house.admin.patch("/runs/run-none", json={"place": 1})).status_code == MISSING
    assert (await house.http.get("/runs/run-none")).status_code == MISSING
    assert (await house.admin.post("/runs", json={"steps": "many"})).status_code == INVALID
    assert (await house.http.post("/runs", json={"steps": 2})).status_code == 401
    assert (await listed(house))["queued"] == []


async def test_the_next_run_begins_when_one_is_stopped(house: Any, eventually: Callable[..., Any]) -> None:
    members = await house.start(2)
    before = house.backend.coordinator.run.run_id
    following = await queue(house, steps=20)
    anchors = house.backend.settings.anchors_dir
    anchors.mkdir(exist_ok=True)
    (anchors / "theta-00000003.safetensors").write_bytes(b"of the run before")
    assert (await steer(house, "stop")).json()["phase"] == "stopped"
    await eventually(lambda: house.backend.coordinator.run.run_id == following)
    run = house.backend.coordinator.run
    assert (run.phase, run.config.steps, run.epoch, run.started) == ("waiting", 20, 1, False)
    await eventually(lambda: not list(anchors.iterdir()))
    view = await listed(house)
    assert (view["queued"], [(one["run_id"], one["phase"]) for one in view["over"]]) == ([], [(before, "stopped")])
    # What is said to the run before, and of its plan, is not of this one.
    for member in members:
        reply = (await member.beat("ready", run_id=before)).json()
        assert (reply["run_id"], reply["epoch"], reply["phase"]) == (following, 0, "waiting")
    for member in members:
        await member.beat("ready", run_id=following)
    assert house.backend.coordinator.run.phase == "training"
    assert house.backend.coordinator.run.epoch == 2
    body = {"epoch": 1, "steps": []}
    assert (await members[0].http.post("/metrics", json=body, headers=members[0].headers)).status_code == 204


async def test_a_restarted_server_goes_on_with_the_queue_and_the_history(
    settings: Settings, clock: Any, open_house: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    house, close = await open_house(settings, clock)
    await house.configure()
    before = house.backend.coordinator.run.run_id
    await steer(house, "stop")
    following, last = await queue(house, steps=20), None
    await eventually(lambda: house.backend.coordinator.run.run_id == following)
    last = await queue(house, steps=30)
    await close()
    left = Path(settings.anchors_dir) / "theta-00000001.safetensors"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"of the run under way")
    house, close = await open_house(settings, clock)
    assert house.backend.coordinator.run.run_id == following
    view = await listed(house)
    assert ([one["run_id"] for one in view["queued"]], [one["run_id"] for one in view["over"]]) == ([last], [before])
    await close()
    assert left.exists()
    # Killed after the database had changed and before the files had.
    (settings.data_dir / "files-of").write_text(before)
    house, close = await open_house(settings, clock)
    await eventually(lambda: not left.exists())
    await close()


@pytest.mark.parametrize("name", ["config.json", "..%2f..%2fadmin-token"])
async def test_only_kept_files_are_served(house: Any, name: str) -> None:
    run_id = house.backend.coordinator.run.run_id
    assert (await house.admin.get(f"/runs/{run_id}/checkpoint/{name}")).status_code == MISSING
