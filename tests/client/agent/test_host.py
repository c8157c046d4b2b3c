"""A home's agent with a real server and real engines: rests when it is asked to, comes back, keeps what was learned."""

import asyncio
import sys
import time
from pathlib import Path

import psutil
import pytest

from legion.outer.state import opened
from legion_client.agent import life, supervisor
from legion_client.paths import Home
from legion_client.settings import change
from tests.client.agent.hosting import WAIT_S, RunningServer, hosted, reaches, seen, trains

ROUNDS = {"cluster": {"policy": "solo"}, "rounds": {"steps": 40, "codec": "int4"}, "steps": 40_000}
Phase = life.Phase


async def rests(pid: int) -> None:
    """Until the process uses next to nothing, for more than a moment."""
    process, quiet_since = psutil.Process(pid), None
    while quiet_since is None or time.monotonic() - quiet_since < 0.6:
        looked = time.monotonic()
        percent = await asyncio.to_thread(process.cpu_percent, 0.2)
        quiet_since = (quiet_since or looked) if percent < 10 else None


@pytest.fixture
def run(server: RunningServer) -> RunningServer:
    server.configure(**ROUNDS)
    return server


async def test_pause_and_resume_by_the_desk(run: RunningServer, tmp_path: Path) -> None:
    async with hosted(run, tmp_path / "home") as (host, desk):
        await reaches(host, Phase.TRAINING)
        before = await trains(host)
        pid = host.engine_pid
        assert pid is not None
        status = await seen(desk, lambda status: status.devices and status.devices[-1].cores)
        assert (status.face, status.devices[-1].kind, status.devices[-1].state) == ("training", "cpu", "computing")
        await desk.pause(None)
        await rests(pid)
        assert host.engine_pid == pid, "a short pause keeps the engine"
        status = await seen(desk, lambda status: status.face == "paused")
        assert (status.headline, status.reasons[0].slug, status.tokens_per_s) == ("Paused by you.", "paused", 0.0)
        assert (await seen(desk, lambda status: status.devices[-1].state != "computing")).devices[-1].state == "ready"
        await seen_by_server(run, "paused")
        await desk.resume()
        assert await trains(host) > before, "no step is lost"
        assert host.engine_pid == pid
        kinds = [happening.kind for happening in await desk.happenings(0, 100)]
        assert kinds.index("paused") < kinds.index("resumed")


async def seen_by_server(run: RunningServer, state: str) -> None:
    workers = [{}]
    while workers[0].get("state") != state:
        workers = await asyncio.to_thread(run.call, "GET", "/workers")


async def test_a_pause_that_frees_memory_ends_the_engine_and_keeps_its_state(
    run: RunningServer, tmp_path: Path
) -> None:
    async with hosted(run, tmp_path / "home") as (host, desk):
        await reaches(host, Phase.TRAINING)
        await trains(host)
        pid = host.engine_pid
        assert pid is not None
        host.home.settings.write_text("no TOML: nobody knows what the volunteer decided")
        status = await seen(desk, lambda status: status.reasons)
        assert (status.face, status.reasons[0].slug) == ("warning", "settings-unusable")
        await asyncio.to_thread(psutil.Process(pid).wait, WAIT_S)
        await reaches(host, Phase.PAUSED)
        with opened(host.home.local_state) as kept:
            kept.check()
            assert kept.info.final
        host.home.settings.unlink()
        await reaches(host, Phase.TRAINING)
        assert host.engine_pid != pid
        await trains(host)
        assert not host.home.local_state.exists(), "taken up by the engine that followed"


@pytest.mark.parametrize("phase", [Phase.JOINING, Phase.PREPARING])
async def test_finish_before_there_is_anything_to_finish_pauses(
    run: RunningServer, tmp_path: Path, phase: life.Phase
) -> None:
    async with hosted(run, tmp_path / "home") as (host, desk):
        await reaches(host, phase)
        await desk.finish()
        status = await seen(desk, lambda status: status.face == "paused")
        assert (status.reasons[0].slug, status.finishing) == ("finished", False)
        await reaches(host, Phase.PAUSED)
        await desk.leave()
        await seen(desk, lambda status: status.server is None)
        await desk.join(str(run.invite()))
        await reaches(host, Phase.TRAINING)


async def test_a_pause_ends_the_round_that_was_to_be_finished(run: RunningServer, tmp_path: Path) -> None:
    run.configure(rounds={"steps": 20_000})  # not soon over
    async with hosted(run, tmp_path / "home") as (host, desk):
        await reaches(host, Phase.TRAINING)
        await trains(host)
        await desk.finish()
        await desk.pause(None)
        await seen(desk, lambda status: status.reasons and status.reasons[0].slug == "paused")
        await reaches(host, Phase.HOLDING)
        assert host.finished
        host.steer({"modes.paused": None})  # as a rule that holds no more
        status = await seen(desk, lambda status: status.reasons and status.reasons[0].slug != "paused")
        assert status.reasons[0].slug == "finished"
        await desk.resume()
        await trains(host)


async def test_finish_contributes_before_it_rests(run: RunningServer, tmp_path: Path) -> None:
    async with hosted(run, tmp_path / "home") as (host, desk):
        await reaches(host, Phase.TRAINING)
        await trains(host)
        await desk.finish()
        status = await seen(desk, lambda status: status.face == "paused" and status.reasons)
        assert status.reasons[0].slug == "finished"
        while not (await asyncio.to_thread(run.call, "GET", "/training/rounds"))["records"]:
            assert host.resting
        await desk.resume()
        await reaches(host, Phase.TRAINING)
        await trains(host)


async def test_an_engine_that_keeps_crashing_rests_and_says_why(run: RunningServer, tmp_path: Path) -> None:
    async with hosted(run, tmp_path / "home") as (host, desk):
        for _ in range(3):
            await reaches(host, Phase.TRAINING)
            await trains(host)
            pid = host.engine_pid
            assert pid is not None
            psutil.Process(pid).kill()
            await reaches(host, Phase.JOINING, Phase.PAUSED)
        await reaches(host, Phase.PAUSED)
        status = await seen(desk, lambda status: status.reasons and status.reasons[0].slug == "engine-failed")
        assert (status.face, "SIGKILL" in status.headline) == ("warning", True)
        kinds = [happening.kind for happening in await desk.happenings(0, 100)]
        assert (kinds.count("engine-crashed"), kinds.count("engine-failed")) == (2, 1)
        await desk.resume()
        await reaches(host, Phase.TRAINING)


async def test_the_end_in_the_middle_of_a_round_keeps_what_was_learned(run: RunningServer, tmp_path: Path) -> None:
    run.configure(rounds={"steps": 20_000})
    async with hosted(run, tmp_path / "home") as (host, _):
        await reaches(host, Phase.TRAINING)
        step = await trains(host)
        host.quit("SIGTERM")
        await reaches(host, Phase.LEAVING, Phase.ENDED)
    with opened(host.home.local_state) as kept:
        kept.check()
        assert kept.info.final
        assert kept.info.steps >= step


async def test_a_program_that_goes_first_stops_and_starts_everything(
    run: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine that runs other tests too, the lowest priority would wait for all of them.
    monkeypatch.setattr(supervisor, "LOWEST_NICE", 3)
    home = Home(tmp_path / "home")
    # As on a machine of its own: what else this one does is no matter of the test.
    rules = {"programs.exclusive": ["agamefortests"], "programs.resume_after_s": 0, "memory.in_use_percent": 100}
    change(home.settings, rules | {"disk.least_free_gb": 0, "processor.time_in_use_percent": 50})
    program = tmp_path / "agamefortests"
    program.symlink_to("/bin/sleep")
    async with hosted(run, home.root, polite=True) as (host, desk):
        await reaches(host, Phase.TRAINING)
        await trains(host)
        pid = host.engine_pid
        assert pid is not None
        engine = psutil.Process(pid)
        assert engine.nice() == 3
        if sys.platform == "linux":
            assert engine.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        playing = await asyncio.create_subprocess_exec(program, "600")
        try:
            status = await seen(desk, lambda status: status.face == "waiting" and status.reasons)
            # The network belongs to that program too, so nothing is left to keep an engine for.
            await asyncio.to_thread(engine.wait, WAIT_S)
            assert (status.reasons[0].slug, status.reasons[0].setting) == ("exclusive-program", "programs.exclusive")
            assert "agamefortests" in status.headline
        finally:
            playing.kill()
            await playing.wait()
        await seen(desk, lambda status: status.face == "training")
        await trains(host)
        sentences = [happening.sentence for happening in await desk.happenings(0, 100)]
        assert any("agamefortests" in sentence for sentence in sentences)
