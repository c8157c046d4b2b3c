"""A run over the API: plan, training, loss of a member, the end, and resuming."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from legion.config import config_digest
from legion.messages import ModelShape, Plan

LOCKED, INVALID, FORBIDDEN, MISSING = 409, 422, 403, 404


def record(step: int, **changes: Any) -> dict[str, Any]:
    base = {
        "step": step,
        "loss": 5.0 - step / 10,
        "grad_norm": 1.0,
        "lr": 0.1,
        "step_tokens": 64,
        "tokens": 32,
        "micro_batches": 1,
        "step_s": 0.5,
        "compute_s": 0.25,
        "waiting_s": 0.125,
        "sent_bytes": 10,
        "received_bytes": 20,
        "peak_rss_bytes": 1000,
        "state_bytes": 500,
    }
    return base | changes


async def upload(member: Any, step: int, rank: int, content: bytes, epoch: int = 1, **headers: str) -> Any:
    named = {
        "Legion-Sha256": hashlib.sha256(content).hexdigest(),
        "Legion-Tokens": str(step * 64),
        "Legion-Epoch": str(epoch),
    }
    url = f"/checkpoints/{step}/slices/{rank}"
    return await member.http.put(url, content=content, headers=member.headers | named | headers)


async def report(member: Any, *steps: dict[str, Any], epoch: int = 1, **rest: Any) -> Any:
    body = {"epoch": epoch, "steps": list(steps)} | rest
    return await member.http.post("/metrics", json=body, headers=member.headers)


async def phase(house: Any) -> str:
    return str((await house.http.get("/health")).json()["phase"])


async def test_workers_get_a_configuration_with_prepared_data(
    house: Any, eventually: Callable[..., Awaitable[None]]
) -> None:
    member = await house.join()
    await house.configure()
    # As if the data of the first configuration had not been asked for yet.
    await house.backend.coordinator.configure(house.backend.coordinator.run.config, None)
    for path in ("/training/config", "/data/manifest"):
        reply = await house.http.get(path, headers=member.headers)
        assert (reply.status_code, reply.json()["retryable"]) == (503, True)
        assert int(reply.headers["retry-after"]) > 0
    await eventually(lambda: house.backend.coordinator.state.dataset is not None)
    config = (await house.http.get("/training/config", headers=member.headers)).json()
    manifest = (await house.http.get("/data/manifest", headers=member.headers)).json()
    assert config["data"]["fingerprint"] == manifest["fingerprint"]


async def test_the_plan_is_for_its_members(house: Any) -> None:
    assert (await house.admin.get("/training/plan")).status_code == MISSING
    one, two = await house.start(2)
    outsider = await house.join()
    await outsider.beat("ready")
    bodies = [(await house.http.get("/training/plan", headers=m.headers)).json() for m in (one, two)]
    assert bodies[0] == bodies[1] == (await house.admin.get("/training/plan")).json()
    plan = Plan.model_validate(bodies[0])
    assert [member.worker_id for member in plan.members] == [one.worker_id, two.worker_id]
    assert plan.config_digest == config_digest(house.backend.coordinator.run.config)
    assert (await house.http.get("/training/plan", headers=outsider.headers)).status_code == FORBIDDEN
    # An outsider's heartbeat names no epoch: there is nothing for it to fetch.
    assert (await outsider.beat("ready")).json()["epoch"] == 0
    assert (await one.beat("training", epoch=1)).json()["epoch"] == 1


async def test_a_started_run_keeps_its_configuration(house: Any) -> None:
    await house.start(1)
    reply = await house.admin.put("/training/config", json={"steps": 99})
    assert (reply.status_code, reply.json()["slug"]) == (LOCKED, "config-locked")


async def test_another_configuration_ends_a_failure_to_start(house: Any) -> None:
    await house.configure(start={"workers": 5})
    members = [await house.join() for _ in range(5)]
    for member in members:
        await member.beat("ready")
    assert "5 members cannot share 4 chunks" in (await house.admin.get("/metrics")).json()["failure"]
    # Refused changes are no new chance.
    assert (await house.admin.put("/training/config", json={"steps": 0})).status_code == INVALID
    assert await phase(house) == "failed"
    await house.http.delete(f"/workers/{members[0].worker_id}", headers=members[0].headers)
    for member in members[1:]:
        await member.beat("preparing")
    assert (await house.admin.put("/training/config", json={"start": {"workers": 4}})).status_code == 200
    view = (await house.admin.get("/metrics")).json()
    assert (view["phase"], view["failure"]) == ("waiting", None)
    for member in members[1:]:
        await member.beat("ready")
    assert await phase(house) == "training"


async def test_workers_that_disagree_may_be_asked_for_less(house: Any, shape: ModelShape) -> None:
    await house.configure(start={"workers": 2})
    one, two = await house.join(), await house.join()
    two.shape = ModelShape(units=shape.units[:1])
    for member in (one, two):
        await member.beat("ready")
    assert "different models" in (await house.admin.get("/metrics")).json()["failure"]
    last = house.backend.events.last
    assert (await house.admin.put("/training/config", json={"start": {"workers": 1}})).status_code == 200
    assert await phase(house) == "training"
    events = house.backend.events.follow(last, private=True)
    told = [await anext(events) for _ in range(house.backend.events.last - last)]
    assert [event.data["phase"] for event in told if event.type == "phase"] == ["waiting", "training"]


async def test_a_lost_member_ends_the_run_and_names_go_to_admins_only(house: Any) -> None:
    one, two = await house.start(2)
    await one.beat("training", epoch=1, lost_peer=two.worker_id)
    assert await phase(house) == "failed"
    public, private = (await house.http.get("/metrics")).json(), (await house.admin.get("/metrics")).json()
    assert two.worker_id[:8] in private["failure"]
    assert two.worker_id[:8] not in public["failure"]
    assert "resume the run from the beginning" in public["failure"]


async def test_a_silent_member_ends_the_run(house: Any) -> None:
    one, _ = await house.start(2)
    for _ in range(2):
        await house.tick(50)
        await one.beat("training", epoch=1)
    assert await phase(house) == "failed"
    assert "silent for 90 s" in (await house.admin.get("/metrics")).json()["failure"]


async def test_a_revoked_member_ends_the_run(house: Any) -> None:
    _, two = await house.start(2)
    await house.admin.delete(f"/workers/{two.worker_id}")
    assert "removed by the operator" in (await house.admin.get("/metrics")).json()["failure"]


async def test_metrics_count_each_step_once(house: Any) -> None:
    one, two = await house.start(2)
    for _ in range(2):
        assert (await report(one, record(1), record(2))).status_code == 204
    evaluation = {"step": 2, "loss": 4.5, "tokens": 100}
    await report(two, record(1, tokens=16), evaluations=[evaluation])
    view = (await house.admin.get("/metrics")).json()
    assert (view["step"], view["steps"], view["tokens"], view["tokens_per_s"]) == (2, 8, 128, 128.0)
    assert [step["step"] for step in view["recent"]] == [1, 2]
    assert [step["step"] for step in (await house.admin.get("/metrics?since=1")).json()["recent"]] == [2]
    assert view["evaluations"] == [evaluation]
    assert {w["worker_id"]: w["tokens"] for w in view["workers"]} == {one.worker_id: 64, two.worker_id: 16}
    assert (await house.http.get("/metrics")).json()["workers"] == []


async def test_metrics_of_strangers_and_other_epochs_are_not_counted(house: Any) -> None:
    (one,) = await house.start(1)
    outsider = await house.join()
    assert (await report(outsider, record(1))).status_code == 204
    assert (await report(one, record(1), epoch=2)).status_code == 204
    assert (await house.http.get("/metrics")).json()["recent"] == []


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"])
async def test_prometheus_reads_text(house: Any, accept: str) -> None:
    (one,) = await house.start(1)
    await report(one, record(1))
    reply = await house.http.get("/metrics", headers={"Accept": accept})
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = reply.text.splitlines()
    assert "legion_step 1.0" in lines
    assert 'legion_run_phase{phase="training"} 1.0' in lines
    assert 'legion_workers{state="ready"} 1.0' in lines
    assert (await house.http.get("/metrics", headers={"Accept": "*/*"})).json()["step"] == 1


async def test_slices_arrive_whole_or_not_at_all(house: Any) -> None:
    one, two = await house.start(2)
    folder = house.backend.settings.slices_dir
    reply = await upload(one, 4, 0, b"content", **{"Legion-Sha256": "0" * 64})
    assert (reply.status_code, reply.json()["slug"]) == (INVALID, "checkpoint-invalid")
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert (await upload(one, 4, 0, b"content")).status_code == 204
    assert (await upload(one, 4, 0, b"content")).status_code == 204
    assert (await upload(one, 4, 0, b"other")).json()["slug"] == "checkpoint-invalid"
    assert [path.read_bytes() for path in folder.rglob("*") if path.is_file()] == [b"content"]
    (view,) = (await house.admin.get("/checkpoints")).json()
    assert (view["step"], view["complete"], view["assembled"]) == (4, False, False)
    assert (await house.http.get("/checkpoints/4/slices/1", headers=two.headers)).status_code == MISSING


async def test_a_slice_comes_from_its_holder_only(house: Any) -> None:
    one, two = await house.start(2)
    outsider = await house.join()
    for member, rank in ((two, 0), (one, 1), (outsider, 0)):
        assert (await upload(member, 4, rank, b"x")).status_code == FORBIDDEN
    assert (await upload(one, 4, 0, b"x", epoch=2)).status_code == FORBIDDEN
    assert (await upload(one, 9, 0, b"x")).status_code == MISSING  # the run has 8 steps
    assert (await upload(one, 4, 7, b"x")).status_code == FORBIDDEN
    assert (await upload(one, 4, 0, b"x" * (20 * 2**20))).json()["slug"] == "checkpoint-invalid"
    assert (await house.admin.get("/checkpoints")).json() == []


async def test_slices_are_read_by_range(house: Any) -> None:
    (one,) = await house.start(1)
    await upload(one, 4, 0, bytes(range(100)))
    url = "/checkpoints/4/slices/0"
    whole = await house.http.get(url, headers=one.headers)
    part = await house.http.get(url, headers=one.headers | {"Range": "bytes=10-19"})
    rest = await house.http.get(url, headers=one.headers | {"Range": "bytes=90-"})
    beyond = await house.http.get(url, headers=one.headers | {"Range": "bytes=100-"})
    assert (whole.status_code, whole.content) == (200, bytes(range(100)))
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert (rest.status_code, rest.content) == (206, bytes(range(90, 100)))
    assert beyond.status_code == 416
    assert (await house.http.get(url)).status_code == 401


async def test_a_full_disk_leaves_nothing_behind(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = await house.start(1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("legion_server.service.slices.os.fsync", full)
    reply = await upload(one, 4, 0, b"content")
    assert (reply.status_code, reply.json()["slug"]) == (507, "storage-failed")
    assert "No space left on device" in reply.json()["detail"]
    monkeypatch.undo()
    assert not [path for path in house.backend.settings.slices_dir.rglob("*") if path.is_file()]
    assert (await upload(one, 4, 0, b"content")).status_code == 204


async def test_data_is_served_by_hash_and_range(house: Any) -> None:
    await house.configure()
    member = await house.join()
    manifest = (await house.http.get("/data/manifest", headers=member.headers)).json()
    names = [manifest["tokenizer_sha256"], *(shard["sha256"] for shard in manifest["train"])]
    for name in names:
        content = (await house.http.get(f"/data/{name}", headers=member.headers)).content
        assert hashlib.sha256(content).hexdigest() == name
        part = await house.http.get(f"/data/{name}", headers=member.headers | {"Range": "bytes=1-4"})
        assert part.content == content[1:5]
        assert (await house.http.get(f"/data/{name}")).status_code == 401
    assert (await house.http.get(f"/data/{'0' * 64}", headers=member.headers)).status_code == MISSING


@pytest.mark.parametrize("name", ["..%2Flegion.db", "config.json", "%2Fetc%2Fpasswd"])
async def test_only_files_of_the_checkpoint_are_served(house: Any, name: str) -> None:
    (one,) = await house.start(1)
    await upload(one, 4, 0, b"x")
    assert (await house.admin.get(f"/checkpoints/4/files/{name}")).status_code == MISSING


async def test_what_cannot_be_assembled_ends_the_run_and_says_why(
    house: Any, eventually: Callable[..., Awaitable[None]]
) -> None:
    (one,) = await house.start(1)
    await upload(one, 4, 0, b"no safetensors")
    await upload(one, 8, 0, b"no safetensors either")
    await eventually(lambda: house.backend.coordinator.run.phase == "failed")
    failure = (await house.admin.get("/metrics")).json()["failure"]
    assert "the last checkpoint could not be assembled" in failure
    assert (await house.admin.get("/checkpoints")).json()[0]["complete"] is True


async def test_resume_goes_on_from_the_newest_complete_checkpoint(house: Any) -> None:
    one, two = await house.start(2)
    await report(one, *(record(step) for step in range(1, 7)))
    for rank, member in enumerate((one, two)):
        await upload(member, 4, rank, f"slice {rank}".encode())
    await upload(one, 6, 0, b"half a checkpoint")
    await house.http.delete(f"/workers/{two.worker_id}", headers=two.headers)
    assert "resume the run from step 4" in (await house.admin.get("/metrics")).json()["failure"]

    reply = await house.admin.post("/runs/resume")
    assert reply.json()["phase"] == "waiting"
    view = (await house.admin.get("/metrics")).json()
    assert (view["step"], view["failure"]) == (4, None)
    assert [step["step"] for step in view["recent"]] == [1, 2, 3, 4]
    assert [c["step"] for c in (await house.admin.get("/checkpoints")).json()] == [4]
    # Whoever still follows the old plan is no member, and a report from that past is not counted.
    assert (await one.beat("training", epoch=1)).json() == {
        "run_id": house.backend.coordinator.run.run_id,
        "phase": "waiting",
        "epoch": 0,
        "interval_s": 5.0,
        "certificate_renewal": False,
        "round": -1,
        "revision": 0,
        "gone": [],
        "regroup": False,
        "measure": [],
        "measure_server": False,
        "found": [],
        "doubled": "",
        "wanted": [],
    }
    await report(one, record(5))
    assert (await house.http.get("/metrics")).json()["step"] == 4

    three = await house.join()
    for member in (one, three):
        await member.beat("ready")
    plan = (await house.admin.get("/training/plan")).json()
    assert (plan["epoch"], plan["first_step"]) == (2, 4)
    manifest = (await house.http.get("/checkpoints/4", headers=three.headers)).json()
    assert [entry["rank"] for entry in manifest["slices"]] == [0, 1]
    await report(three, record(5, loss=1.0), epoch=2)
    assert (await house.http.get("/metrics")).json()["recent"][-1]["loss"] == 1.0


async def test_resume_from_nothing_is_the_beginning(house: Any) -> None:
    one, _ = await house.start(2)
    await house.http.delete(f"/workers/{one.worker_id}", headers=one.headers)
    await house.admin.post("/runs/resume")
    run = house.backend.coordinator.run
    assert (run.phase, run.first_step) == ("waiting", 0)


async def test_unknown_routes_and_methods_are_problems_too(house: Any) -> None:
    for method, path, status in (("GET", "/nope", 404), ("PATCH", "/health", 405)):
        reply = await house.http.request(method, path)
        assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
        assert reply.json()["status"] == status
