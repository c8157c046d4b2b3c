"""The agent against a real server, with an engine that follows a script: the whole way, and every way off it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from legion.config import RunConfig, config_digest
from legion.errors import EngineDied, NotFinite, WorkerRevoked
from legion.ids import ClusterId, Rank, RunId
from legion.messages import ModelShape, TensorShape, UnitShape
from legion.outer.state import StateInfo, write_state
from legion_client.agent import lifecycle, supervisor
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.headless import give
from legion_client.agent.joining import join
from legion_client.agent.life import Phase, State, Wish
from legion_client.agent.progress import Progress
from legion_client.agent.room import Room
from legion_client.agent.service import Agent
from legion_client.agent.traffic import Traffic
from legion_client.engine.protocol import Prepare, Rates, Train
from legion_client.machine.probe import hardware
from legion_client.machine.reasons import sentence
from legion_client.machine.volume import MonthlyVolume
from legion_client.paths import Home
from legion_client.settings import Settings

RunningServer = Any  # see conftest
SCRIPT = Path(__file__).with_name("scripted_engine.py")
SHAPE = ModelShape(units=(UnitShape(name="all", tensors=(TensorShape(name="w", shape=(4097,)),)),))
STEPS = 4
Engine = Callable[..., tuple[str, ...]]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """The command of a scripted engine."""
    (tmp_path / "shape.json").write_text(SHAPE.model_dump_json())
    os.mkfifo(tmp_path / "gate")

    def command(**script: object) -> tuple[str, ...]:
        (tmp_path / "script.json").write_text(json.dumps({"steps": STEPS, "slice_size": 70_001} | script))
        return (sys.executable, str(SCRIPT), str(tmp_path / "script.json"))

    return command


@pytest.fixture
def run(server: RunningServer) -> RunningServer:
    server.configure(steps=STEPS, optimizer={"warmup_steps": 0})
    return server


async def give_here(run: RunningServer, tmp_path: Path, command: tuple[str, ...]) -> None:
    await give(Home(tmp_path / "home"), Settings(name="tester"), run.invite(), command)


async def open_gate(tmp_path: Path) -> None:
    """Lets the engine go on: opening a FIFO for writing waits for its reader."""
    await asyncio.to_thread((tmp_path / "gate").write_bytes, b"")


async def agent_of(
    run: RunningServer,
    tmp_path: Path,
    command: tuple[str, ...],
    listen_host: str | None = None,
    traffic: Traffic | None = None,
    room: Room | None = None,
) -> tuple[Agent, Coordinator]:
    home = Home(tmp_path / "home")
    enrolment = await join(home.identity, run.invite(), "tester", lambda: hardware(home.root))
    server = Coordinator(enrolment.base_url, enrolment.context, enrolment.worker_id, enrolment.token, traffic)
    settings = Settings(name="tester", listen_host=listen_host)
    return Agent(server, enrolment, home, settings, command, traffic=traffic, room=room), server


async def test_from_invite_to_the_end_of_the_run(run: RunningServer, engine: Engine, tmp_path: Path) -> None:
    await give_here(run, tmp_path, engine())
    metrics = run.call("GET", "/metrics")
    assert (metrics["phase"], metrics["step"], metrics["tokens"]) == ("complete", STEPS, 2048 * STEPS)
    assert [step["step"] for step in metrics["recent"]] == [1, 2, 3, 4]
    assert [evaluation["loss"] for evaluation in metrics["evaluations"]] == [2.0]
    assert run.call("GET", "/metrics/curve")["sample"] == {"step": STEPS, "text": "def f():"}
    (worker,) = run.call("GET", "/workers")
    assert (worker["state"], worker["failure"], worker["step"]) == ("offline", None, STEPS)
    (checkpoint,) = run.call("GET", "/checkpoints")
    assert checkpoint["manifest"]["slices"][0]["size_bytes"] == 70_001
    # The slice was deleted once the server had it; the data stays for the next run.
    assert list((tmp_path / "home" / "work").iterdir()) == []
    manifest = run.call("GET", "/data/manifest")
    cached = {path.name for path in (tmp_path / "home" / "cache").iterdir()}
    assert cached == {manifest["tokenizer_sha256"], *(s["sha256"] for s in manifest["train"] + manifest["validation"])}


async def test_data_for_which_there_is_no_room_waits_for_it(run: RunningServer, engine: Engine, tmp_path: Path) -> None:
    asked, room = asyncio.Event(), Room(most_bytes=1000)
    room.on_change = asked.set
    agent, server = await agent_of(run, tmp_path, engine(), room=room)
    async with server, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(agent.run())
        await asked.wait()
        reason = room.lacking()
        assert reason is not None
        assert sentence(reason) == "The run's data takes 0.0 GB of the disk, and 0.0 GB may be used."
        assert not (tmp_path / "home" / "cache").exists()
        agent.pause(Wish(sentence(reason)))  # as the rules do
        await agent.until(Phase.PAUSED)
        room.most_bytes = 10**9
        assert room.lacking() is None
        agent.resume()
        await working
    assert room.need is None
    assert run.call("GET", "/metrics")["phase"] == "complete"


async def test_a_pause_for_lack_of_room_lets_data_of_other_runs_go(
    run: RunningServer, engine: Engine, tmp_path: Path
) -> None:
    room, cache = Room(), tmp_path / "home" / "cache"
    cache.mkdir(parents=True)
    old = cache / ("0" * 64)
    old.write_bytes(bytes(10**6))
    agent, server = await agent_of(run, tmp_path, engine(hang=True), room=room)
    async with server, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(agent.run())
        await agent.until(Phase.TRAINING)
        assert old.exists(), "nobody needs its place"
        room.most_bytes = 10**6
        agent.pause(Wish("Legion's folder is too large", frees_memory=True))
        await agent.until(Phase.PAUSED)
        while await asyncio.to_thread(old.exists):
            assert agent.state.phase is Phase.PAUSED
        agent.stop("enough")
        await working
    assert len(list(cache.iterdir())) > 1, "the run's own data stays"


async def test_a_download_tells_how_far_it_has_come(run: RunningServer, engine: Engine, tmp_path: Path) -> None:
    agent, server = await agent_of(run, tmp_path, engine())
    seen: list[tuple[Phase, Progress]] = []

    def look(_before: State, now: State) -> None:
        progress = agent.attempt.progress(now.phase)
        if progress is not None:
            seen.append((now.phase, progress))

    agent.on_change = look
    async with server:
        await agent.run()
    manifest = run.call("GET", "/data/manifest")
    size_mb = sum(shard["size_bytes"] for shard in manifest["train"] + manifest["validation"]) / 1e6
    downloads = [progress for phase, progress in seen if phase is Phase.JOINING]
    shares = [progress.share for progress in downloads]
    assert (shares[0], shares[-1], shares) == (0.0, 1.0, sorted(shares))
    assert downloads[-1].phrase == f"{size_mb:,.1f} of {size_mb:,.1f} MB of the training data"
    assert {Phase.PREPARING, Phase.READY} < {phase for phase, _ in seen}


async def test_engine_and_agent_share_a_limited_line_and_all_of_it_counts(
    run: RunningServer, engine: Engine, tmp_path: Path
) -> None:
    volume = MonthlyVolume(tmp_path / "traffic.json")
    traffic = Traffic(volume)
    traffic.limit(16_000_000, None)
    agent, server = await agent_of(run, tmp_path, engine(moved=10**9), traffic=traffic)
    async with server:
        await agent.run()
    heard = Rates.model_validate_json((tmp_path / "rates.json").read_text())
    assert heard == Rates(upload_bytes_per_s=15_000_000)
    assert traffic.rates == Rates(), "the engine is gone, and the agent has the line to itself"
    sent, received = traffic.since_last()
    cached = sum(path.stat().st_size for path in (tmp_path / "home" / "cache").iterdir())
    assert sent > 10**9 + 70_001, "what the engine moved, its slice, questions"
    assert received > cached, "the data, answers"
    assert volume.read() == sent + received


async def test_a_server_killed_and_back_costs_nothing(run: RunningServer, engine: Engine, tmp_path: Path) -> None:
    agent, server = await agent_of(run, tmp_path, engine(gate_at=2))
    async with server, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(agent.run())
        await agent.until(Phase.TRAINING)
        await asyncio.to_thread(run.kill)
        await open_gate(tmp_path)
        await agent.until(Phase.FINISHING)  # the engine trained to its end without a server
        await asyncio.to_thread(run.start)
        await working
    metrics = run.call("GET", "/metrics")
    assert (metrics["phase"], metrics["tokens"]) == ("complete", 2048 * STEPS)


async def test_an_engine_that_dies_ends_the_client_and_the_server_hears_why(
    run: RunningServer, engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(EngineDied, match="SIGKILL") as caught:
        await give_here(run, tmp_path, engine(die_at=2))
    assert caught.value.exit_code == 51
    metrics = run.call("GET", "/metrics")
    assert metrics["phase"] == "failed"
    assert "SIGKILL" in metrics["failure"]
    assert metrics["step"] == 2  # what it had reported was delivered


async def test_an_engine_that_fails_says_why_itself(run: RunningServer, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="the loss is NaN") as caught:
        await give_here(run, tmp_path, engine(fail_at=1))
    assert caught.value.hint == "lower the rate"
    assert "the loss is NaN" in run.call("GET", "/metrics")["failure"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_training_leaves_cleanly(
    run: RunningServer, engine: Engine, tmp_path: Path, number: signal.Signals
) -> None:
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(give_here(run, tmp_path, engine(gate_at=3)))
        await open_gate(tmp_path)
        os.kill(os.getpid(), number)
        await working
    (worker,) = run.call("GET", "/workers")
    assert (worker["state"], worker["failure"]) == ("offline", None)


async def test_stop_before_there_is_work(server: RunningServer, engine: Engine, tmp_path: Path) -> None:
    server.configure(start={"workers": 2})
    agent, coordinator = await agent_of(server, tmp_path, engine())
    async with coordinator, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(agent.run())
        await agent.until(Phase.READY)
        agent.stop("enough")
        await working
    assert agent.state.error is None
    assert server.call("GET", "/metrics")["phase"] == "waiting"


async def test_a_revoked_worker_ends(server: RunningServer, engine: Engine, tmp_path: Path) -> None:
    server.configure(start={"workers": 2})
    agent, coordinator = await agent_of(server, tmp_path, engine())
    async with coordinator:
        working = asyncio.create_task(agent.run())
        await agent.until(Phase.READY)
        server.call("DELETE", f"/workers/{coordinator.worker_id}")
        server.configure(seed=7)  # announced: the agent asks at once instead of in five seconds
        with pytest.raises(WorkerRevoked) as caught:
            await working
    assert caught.value.exit_code == 10


async def test_a_configuration_that_changes_before_the_start(
    server: RunningServer, engine: Engine, tmp_path: Path
) -> None:
    server.configure(start={"workers": 2})
    agent, coordinator = await agent_of(server, tmp_path, engine())
    async with coordinator, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(agent.run())
        await agent.until(Phase.READY)
        # One ready worker would do now, but this one is ready for another configuration.
        server.configure(steps=STEPS, start={"workers": 1}, optimizer={"warmup_steps": 0})
        await working
    assert server.call("GET", "/metrics")["phase"] == "complete"


async def test_who_waits_for_long_has_no_engine(
    server: RunningServer, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one takes up the run, under the address that the plan has, once the first has ended at last."""
    monkeypatch.setattr(lifecycle, "DOZE_S", 0.01)
    monkeypatch.setattr(supervisor, "CLOSE_S", 2.0)
    traffic = Traffic(MonthlyVolume(tmp_path / "traffic.json"))
    traffic.limit(16_000_000, None)
    server.configure(steps=STEPS, start={"workers": 2, "wait_s": 1.0}, optimizer={"warmup_steps": 0})
    agent, coordinator = await agent_of(server, tmp_path, engine(survive_input=True), traffic=traffic)
    engines = dict[Phase, int | None]()
    ports = dict[Phase, int | None]()

    def moved(_before: State, now: State) -> None:
        engines[now.phase] = agent.attempt.engine_pid
        ports[now.phase] = agent.attempt.listening.port if agent.attempt.listening else None

    agent.on_change = moved
    async with coordinator:
        await agent.run()
    assert [phase for phase in engines if phase in (Phase.DOZING, Phase.WAKING)] == [Phase.DOZING, Phase.WAKING]
    assert len({engines[Phase.READY], engines[Phase.TRAINING], None}) == 3
    assert ports[Phase.READY] == ports[Phase.TRAINING]
    heard = Rates.model_validate_json((tmp_path / "rates.json").read_text())
    assert heard == Rates(upload_bytes_per_s=15_000_000), "the line is not given back by the one before"
    assert server.call("GET", "/metrics")["phase"] == "complete"


async def test_a_run_resumed_while_its_member_trains(run: RunningServer, engine: Engine, tmp_path: Path) -> None:
    agent, coordinator = await agent_of(run, tmp_path, engine(gate_at=2))
    async with coordinator, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(agent.run())
        await agent.until(Phase.TRAINING)
        # The engine waits at its gate: it will not notice by itself that nobody wants its steps any more.
        run.call("POST", "/runs/resume", {})
        await agent.until(Phase.JOINING)
        await agent.until(Phase.TRAINING)
        await open_gate(tmp_path)
        await working
    metrics = run.call("GET", "/metrics")
    assert (metrics["phase"], metrics["tokens"]) == ("complete", 2048 * STEPS)
    assert run.call("GET", "/training/plan")["epoch"] == 2
    (worker,) = run.call("GET", "/workers")
    assert (worker["epoch"], worker["failure"]) == (2, None)


async def test_a_machine_that_wants_another_address(server: RunningServer, engine: Engine, tmp_path: Path) -> None:
    server.configure(start={"workers": 2})
    agent, coordinator = await agent_of(server, tmp_path, engine(), listen_host="localhost")
    async with coordinator, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(agent.run())
        await agent.until(Phase.READY)
        server.configure(start={"workers": 1})
        await working
    (member,) = server.call("GET", "/training/plan")["members"]
    assert member["endpoint"]["host"] == "localhost"


@pytest.mark.parametrize("run_id", [None, "another"])
async def test_what_an_engine_before_kept_is_offered_if_it_fits(
    run: RunningServer, engine: Engine, tmp_path: Path, run_id: str | None
) -> None:
    run.configure(cluster={"policy": "solo"}, rounds={"steps": 2})
    home = Home(tmp_path / "home")
    home.local_state.parent.mkdir(parents=True)
    info = StateInfo(
        run_id=RunId(run_id or run.call("GET", "/metrics")["run_id"]),
        config_digest=config_digest(RunConfig.model_validate(run.call("GET", "/training/config"))),
        units=SHAPE.sizes,
        shares=(1,),
        rank=Rank(0),
        cluster=ClusterId("c1"),
        sent_as=ClusterId("c1"),
        anchor=0,
        final=True,
        steps=1,
        tokens=2048,
        optimizer_steps=1,
        momentum=False,
        spans=(),
    )
    values = np.zeros(info.layout.total, np.float32)
    write_state(home.local_state, info, dict.fromkeys(("weights", "exp_avg", "exp_avg_sq", "anchor"), values), [])
    await give_here(run, tmp_path, engine(hear=True, slice_size=0))
    told = Train.model_validate_json((tmp_path / "train.json").read_bytes())
    assert (told.local_state, told.resume_slice) == (None if run_id else home.local_state, None)
    assert home.local_state.exists() == (run_id is None)
    prepared = Prepare.model_validate_json((tmp_path / "prepare.json").read_bytes())
    assert (prepared.state_path, prepared.power_note) == (home.local_state, home.power_note)
