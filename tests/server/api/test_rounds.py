"""Runs in rounds over REST, followed by the server's own assembler; what must not pass, and what comes back."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from round_workers import Bench, plan_of
from safetensors.numpy import load_file

from legion import digest
from legion.config import RunConfig
from legion.layout import padded
from legion.messages import ModelShape, TensorShape, UnitShape
from legion.model.init import fill, theta_0
from legion.rounds import GlobalVersion, RoundsPage

Eventually = Callable[..., Awaitable[None]]
NOBODY, FORBIDDEN, MISSING, CONFLICT, INVALID = 401, 403, 404, 409, 422
VOCABULARY, WIDTH = 257, 32
IN_ROUNDS: dict[str, Any] = {
    "cluster": {"policy": "fixed", "size": 1},
    "rounds": {"steps": 2, "checkpoint_every": 2},
    "steps": 6,
}


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    tensors = [("model.embed_tokens.weight", (VOCABULARY, WIDTH)), ("lm_head.weight", (VOCABULARY, WIDTH))]
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=s),)) for n, s in tensors))


def initial(config: RunConfig, shape: ModelShape) -> np.ndarray:
    units = [np.empty(padded(unit.numel), np.float32) for unit in shape.units]
    for unit, values in zip(shape.units, units, strict=True):
        fill(values, unit, 0, theta_0(config))
    return np.concatenate(units)


async def test_a_run_in_rounds_from_the_first_plan_to_the_checkpoint(house: Any, eventually: Eventually) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    coordinator = house.backend.coordinator
    theta = initial(coordinator.run.config, house.shape)
    for number in range(3):
        plan = await bench.play()
        assert (plan.round, plan.steps, plan.first_step) == (number, 2, 2 * number)
        assert len(plan.participants) == len(plan.spans) == 2
        await eventually(lambda: coordinator.state.rounds.anchored == number + 1)  # noqa: B023
        page = RoundsPage.model_validate((await house.admin.get(f"/training/rounds?since={number}")).json())
        (record,) = page.records
        bench.applied(theta, record)
        assert record.root == digest.root(digest.leaves(theta))
        assert record.tokens == 2 * 2 * 2 * 8 * 16  # clusters, steps, micro-batches, blocks, tokens
    await eventually(lambda: coordinator.run.phase == "complete")
    views = (await house.admin.get("/checkpoints")).json()
    assert [(view["step"], view["assembled"], view["manifest"]["shares"]) for view in views] == [
        (4, True, [1]),
        (6, True, [1]),
    ]
    assert views[-1]["weights_digest"] == digest.root(digest.leaves(theta))
    weights = load_file(house.backend.settings.checkpoints_dir / "step-00000006" / "model.safetensors")
    head = weights["lm_head.weight"].ravel()
    assert np.array_equal(head, theta[-padded(head.size) :][: head.size])
    version = GlobalVersion.model_validate((await house.http.get("/training/global_version")).json())
    assert (version.anchor, version.root_round, version.checkpoint_round) == (3, 3, 3)
    assert version.root == views[-1]["weights_digest"]


def standings(version: GlobalVersion) -> list[tuple[str, int, int]]:
    return [(standing.cluster, standing.anchor, standing.steps_ahead) for standing in version.standings]


async def counters(house: Any) -> dict[str, Any]:
    found = (await house.http.get("/metrics")).json()["rounds"]["counters"]
    assert isinstance(found, dict)
    return found


async def test_before_there_are_rounds(house: Any) -> None:
    member = await house.join()
    for path in ("/training/rounds/plan", "/training/global_version"):
        assert (await house.admin.get(path)).status_code == MISSING
    assert (await house.http.get("/training/rounds", headers=member.headers)).json() == {
        "first": 0,
        "records": [],
        "plans": [],
    }
    for path in ("/training/rounds/plan", "/training/rounds", f"/blobs/{'0' * 64}"):
        assert (await house.http.get(path)).status_code == NOBODY
    (one,) = await house.start(1)
    assert (await house.http.get("/training/rounds/plan", headers=one.headers)).status_code == MISSING
    assert (await one.beat("training", epoch=1)).json()["round"] == -1
    assert (await house.http.get("/metrics")).json()["rounds"] is None


async def test_every_cluster_has_its_own_plan(house: Any) -> None:
    config = IN_ROUNDS | {"cluster": {"policy": "fixed", "size": 2}}
    members = await house.start(4, **config)
    outsider = await house.join()
    await outsider.beat("ready")
    plans = [(await house.http.get("/training/plan", headers=m.headers)).json() for m in members]
    assert [plan["cluster"] for plan in plans] == ["c1", "c1", "c2", "c2"]
    assert [plan["epoch"] for plan in plans] == [1, 1, 2, 2]
    assert (await house.admin.get("/training/plan")).status_code == MISSING
    beats = [(await member.beat("training", epoch=plans[0]["epoch"])).json() for member in members[:2]]
    assert {(beat["epoch"], beat["round"], beat["revision"], *beat["gone"]) for beat in beats} == {(1, 0, 0)}
    assert (await plan_of(house, members[3])) == (await plan_of(house))
    reply = await house.http.get("/training/rounds/plan", headers=outsider.headers)
    assert reply.status_code == FORBIDDEN
    # The model has six chunks; slices of two members meet spans of one and a half.
    plan = await plan_of(house)
    assert len(plan.spans) == 4


async def test_steps_of_several_clusters_are_one_step(house: Any) -> None:
    one, two = await house.start(2, **IN_ROUNDS)
    figures = dict.fromkeys(("grad_norm", "lr", "compute_s", "waiting_s"), 1.0)
    counts = dict.fromkeys(("micro_batches", "sent_bytes", "received_bytes", "peak_rss_bytes", "state_bytes"), 1)
    for member, epoch, loss, tokens in ((one, 1, 2.0, 300), (two, 2, 4.0, 100)):
        step = figures | counts | {"step": 1, "loss": loss, "step_s": 0.5, "step_tokens": tokens, "tokens": tokens}
        body = {"epoch": epoch, "steps": [step], "evaluations": [{"step": 1, "loss": loss, "tokens": 7}]}
        assert (await house.http.post("/metrics", json=body, headers=member.headers)).status_code == 204
    view = (await house.admin.get("/metrics")).json()
    (summary,) = view["recent"]
    assert (summary["loss"], summary["tokens"], summary["tokens_per_s"]) == (2.5, 400, 800.0)
    assert (view["step"], view["tokens"]) == (1, 400)
    assert view["evaluations"] == [{"step": 1, "loss": 3.0, "tokens": 7}]
    speeds = house.backend.coordinator.state.rounds.speeds
    assert speeds == {"c1": 600.0, "c2": 200.0}


async def test_what_reducers_may_not_report(house: Any) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    plan = await plan_of(house)
    good = bench.report_of(plan, 0)
    reducer, other = (bench.member(plan.spans[span].reducers[0]) for span in (0, 1))
    assert (await bench.report(plan, good, other)).json()["slug"] == "round-conflict"
    stale = good.model_copy(update={"term": 1})
    assert (await bench.report(plan, stale, reducer)).status_code == CONFLICT
    later = good.model_copy(update={"round": 1})
    assert (await bench.report(plan, later, reducer)).status_code == CONFLICT
    strange = good.model_copy(update={"included": (good.included[0].model_copy(update={"cluster": "c7"}),)})
    assert (await bench.report(plan, strange, reducer)).json()["slug"] == "report-invalid"
    headers = {"headers": reducer.headers, "json": good.model_dump(mode="json")}
    assert (await house.http.post("/training/rounds/1/spans", **headers)).status_code == INVALID
    refused = good.model_copy(update={"refused": {"late": 2, "digest": 1}})
    for _ in range(2):
        assert (await bench.report(plan, refused, reducer)).status_code == 204
    twice = good.model_copy(update={"digest": "f" * 64})
    assert (await bench.report(plan, twice, reducer)).status_code == CONFLICT
    found = await counters(house)
    assert (found["conflicts"], found["reports_refused"], found["digests_differ"]) == (3, 1, 1)
    assert found["refused"] == {"digest": 1, "late": 2}
    assert (await house.http.get("/metrics", headers={"Accept": "text/plain"})).text.count('{reason="late"} 2.0') == 1


async def test_a_report_whose_answer_was_lost_is_fine_after_the_commit(house: Any) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    plan = await bench.play()
    again = bench.report_of(plan, 1)
    assert (await bench.report(plan, again)).status_code == 204
    assert (await bench.report(plan, again.model_copy(update={"digest": "f" * 64}))).status_code == CONFLICT
    found = await counters(house)
    assert (found["conflicts"], found["digests_differ"]) == (0, 1)


async def test_updates_come_whole_and_from_their_reducer(house: Any) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    plan = await plan_of(house)
    report = bench.report_of(plan, 0)
    reducer, other = (bench.member(plan.spans[span].reducers[0]) for span in (0, 1))
    blob = bench.blobs[report.digest]
    assert (await bench.put(reducer, report.digest)).status_code == FORBIDDEN  # not reported yet
    assert (await bench.report(plan, report)).status_code == 204
    assert (await bench.put(other, report.digest)).status_code == FORBIDDEN
    for damaged in (blob[:-1], blob + b"x", bytes(len(blob))):
        assert (await bench.put(reducer, report.digest, damaged)).json()["slug"] == "report-invalid"
    url = f"/blobs/{report.digest}"
    assert (await house.http.get(url, headers=other.headers)).status_code == MISSING
    for _ in range(2):
        assert (await bench.put(reducer, report.digest)).status_code == 204
    whole = await house.http.get(url, headers=other.headers)
    part = await house.http.get(url, headers=other.headers | {"Range": "bytes=10-19"})
    end = await house.http.get(url, headers=other.headers | {"Range": "bytes=-5"})
    beyond = await house.http.get(url, headers=other.headers | {"Range": f"bytes={len(blob)}-"})
    assert (whole.status_code, whole.content) == (200, blob)
    assert (part.status_code, part.content) == (206, blob[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(blob)}"
    assert (end.content, beyond.status_code) == (blob[-5:], 416)
    assert (await counters(house))["blobs_refused"] == 3
    folder = house.backend.settings.data_dir / "blobs"
    assert [path.name for path in folder.iterdir()] == [report.digest]


async def test_a_full_disk_takes_no_update_and_is_counted(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    plan = await plan_of(house)
    report = bench.report_of(plan, 0)
    assert (await bench.report(plan, report)).status_code == 204

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    reducer = bench.member(plan.spans[0].reducers[0])
    with monkeypatch.context() as patched:
        patched.setattr("legion_server.service.blobs.os.fsync", full)
        assert (await bench.put(reducer, report.digest)).json()["slug"] == "storage-failed"
    assert (await counters(house))["storage_failures"] == 1
    assert (await bench.put(reducer, report.digest)).status_code == 204


async def test_a_round_is_committed_with_the_last_of_its_updates(house: Any) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    plan = await bench.play(upload=False)
    for span in range(2):
        assert house.backend.coordinator.state.rounds.committed == 0
        reducer = bench.member(plan.spans[span].reducers[0])
        assert (await bench.put(reducer, bench.report_of(plan, span).digest)).status_code == 204
    assert house.backend.coordinator.state.rounds.committed == 1
    assert (await counters(house))["blobs_missing"] == 0


async def test_standings_name_workers_to_admins_only(house: Any) -> None:
    members = await house.start(2, **IN_ROUNDS)
    await members[0].beat("training", epoch=1, anchor=0, steps_ahead=1)
    public = GlobalVersion.model_validate((await house.http.get("/training/global_version")).json())
    private = GlobalVersion.model_validate((await house.admin.get("/training/global_version")).json())
    assert standings(public) == standings(private) == [("c1", 0, 1), ("c2", -1, 0)]
    assert [len(standing.worker_ids) for standing in public.standings] == [0, 0]
    assert [standing.worker_ids for standing in private.standings] == [(m.worker_id,) for m in members]


async def test_pages_of_the_log_have_the_plans_that_lead_through_it(house: Any) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    played = [await bench.play() for _ in range(2)]
    page = RoundsPage.model_validate((await house.admin.get("/training/rounds?limit=1")).json())
    assert [record.round for record in page.records] == [0]
    assert list(page.plans) == played
    page = RoundsPage.model_validate((await house.admin.get("/training/rounds?since=1")).json())
    assert [record.round for record in page.records] == [1]
    assert list(page.plans) == [played[1], await plan_of(house)]
    page = RoundsPage.model_validate((await house.admin.get("/training/rounds?since=2")).json())
    assert (page.records, list(page.plans)) == ((), [await plan_of(house)])
