"""The engine's owner, against real processes: reports, deaths, and that nothing outlives the block."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from legion.config import RunConfig
from legion.errors import EngineDied, StorageFailed
from legion.messages import DatasetManifest, ModelShape, TensorShape, UnitShape
from legion_client.agent import supervisor
from legion_client.agent.supervisor import Engine, environment
from legion_client.engine.protocol import Left, Listening, Prepare, Pulse, Report, Stop

SCRIPT = Path(__file__).with_name("scripted_engine.py")
SHAPE = ModelShape(units=(UnitShape(name="all", tensors=(TensorShape(name="w", shape=(4096,)),)),))


@pytest.fixture
def scripted(tmp_path: Path) -> Any:
    def command(**script: object) -> tuple[str, ...]:
        (tmp_path / "script.json").write_text(json.dumps(script))
        (tmp_path / "shape.json").write_text(SHAPE.model_dump_json())
        return (sys.executable, str(SCRIPT), str(tmp_path / "script.json"))

    return command


def prepare(tmp_path: Path) -> Prepare:
    manifest = DatasetManifest(
        fingerprint="0" * 64,
        kind="packed",
        token_bytes=1,
        vocab_size=256,
        seq_len=128,
        tokenizer_sha256="1" * 64,
        end_of_text=0,
    )
    return Prepare(config=RunConfig(), manifest=manifest, identity_dir=tmp_path, cache_dir=tmp_path, work_dir=tmp_path)


async def heard(engine: Engine) -> list[Report]:
    return [report async for report in engine.reports()]


async def test_a_conversation_and_its_log(scripted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Engine.running(scripted(print=True), tmp_path / "logs" / "engine.log") as engine:
        await engine.send(prepare(tmp_path))
        await engine.send(Stop(reason="enough"))
        listening, left = await heard(engine)
        assert isinstance(listening, Listening)
        assert listening.shape == SHAPE
        assert left == Left(step=1)
        assert "exit code 0" in str(await engine.death())
    assert "scripted engine pid=" in (tmp_path / "logs" / "engine.log").read_text()
    assert "scripted engine pid=" in capsys.readouterr().err


async def test_an_engine_killed_from_outside(scripted: Any, tmp_path: Path) -> None:
    async with Engine.running(scripted(), tmp_path / "engine.log") as engine:
        await engine.send(prepare(tmp_path))
        reports = engine.reports()
        assert isinstance(await anext(reports), Listening)
        os.kill(engine.pid, signal.SIGKILL)
        assert [report async for report in reports] == []
        death = await engine.death()
    assert "SIGKILL" in str(death)
    assert death.exit_code == 51


@pytest.mark.parametrize("how", [signal.SIGSTOP, None])
async def test_an_engine_that_is_there_and_says_nothing_is_ended(
    scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals | None
) -> None:
    monkeypatch.setattr(supervisor, "PULSE_S", 0.02)
    monkeypatch.setattr(supervisor, "CLOSE_S", 0.2)
    async with Engine.running(scripted(pulse=True, survive_input=True), tmp_path / "engine.log") as engine:
        pid = engine.pid
        await engine.send(prepare(tmp_path))
        reports = engine.reports()
        assert isinstance(await anext(reports), Listening)
        assert isinstance(await anext(reports), Pulse)
        if how is not None:
            os.kill(pid, how)
        with pytest.raises(EngineDied, match="hangs: nothing was heard of it"):
            await anext(reports)
    assert not psutil.pid_exists(pid)


async def test_one_that_has_not_begun_to_say_that_it_lives_is_not_missed(
    scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building a large model takes minutes."""
    monkeypatch.setattr(supervisor, "PULSE_S", 0.0)
    async with Engine.running(scripted(), tmp_path / "engine.log") as engine:
        await engine.send(prepare(tmp_path))
        await engine.send(Stop(reason="enough"))
        assert [type(report) async for report in engine.reports()] == [Listening, Left]


async def test_a_dead_engine_can_be_spoken_to(scripted: Any, tmp_path: Path) -> None:
    async with Engine.running(scripted(), tmp_path / "engine.log") as engine:
        engine.kill()
        await engine.death()
        for _ in range(3):
            await engine.send(Stop(reason="too late"))


async def test_nothing_outlives_the_block(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CLOSE_S", 0.2)
    pids: list[int] = []

    async def fail() -> None:
        async with Engine.running(scripted(survive_input=True), tmp_path / "engine.log") as engine:
            pids.append(engine.pid)
            await engine.send(prepare(tmp_path))
            await anext(engine.reports())
            raise RuntimeError("the agent fails")

    with pytest.raises(RuntimeError, match="the agent fails"):
        await fail()
    assert not psutil.pid_exists(pids[0])


async def test_cancelling_the_owner_ends_the_engine(scripted: Any, tmp_path: Path) -> None:
    pids: asyncio.Queue[int] = asyncio.Queue()

    async def own() -> None:
        async with Engine.running(scripted(), tmp_path / "engine.log") as engine:
            pids.put_nowait(engine.pid)
            await heard(engine)

    owner = asyncio.create_task(own())
    pid = await pids.get()
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert not psutil.pid_exists(pid)


async def test_cancelling_the_owner_again_while_it_waits_for_the_end_leaves_no_engine(tmp_path: Path) -> None:
    """As when a program ends that was already about to end its engine, which does not heed the end of its input."""
    deaf = (sys.executable, "-c", "import time; print('{}', flush=True); time.sleep(600)")
    started: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()

    async def own() -> None:
        async with Engine.running(deaf, tmp_path / "engine.log") as engine:
            started.set_result(engine)
            await asyncio.get_running_loop().create_future()

    owner = asyncio.create_task(own())
    engine = await started
    owner.cancel()
    await asyncio.wait({owner}, timeout=0.1)
    assert not owner.done(), "it gives the engine time to end by itself"
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert not psutil.pid_exists(engine.pid)


async def test_an_object_that_is_no_report_is_an_error(scripted: Any, tmp_path: Path) -> None:
    async with Engine.running(scripted(nonsense=True), tmp_path / "engine.log") as engine:
        with pytest.raises(EngineDied, match="does not understand"):
            await heard(engine)


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineDied, match="cannot be started"):
        async with Engine.running((str(tmp_path / "no-such-program"),), tmp_path / "engine.log"):
            pass


async def test_a_log_that_cannot_be_opened(scripted: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageFailed, match=r"engine\.log"):
        async with Engine.running(scripted(), tmp_path / "file" / "engine.log"):
            pass


async def test_the_log_of_the_start_before_is_kept(scripted: Any, tmp_path: Path) -> None:
    for _ in range(2):
        async with Engine.running(scripted(), tmp_path / "engine.log") as engine:
            await engine.send(Stop(reason="enough"))
            await heard(engine)
    assert (tmp_path / "engine.previous.log").exists()


def test_what_the_volunteer_set_wins() -> None:
    assert environment({"OMP_NUM_THREADS": "7", "PATH": "/bin"}, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "7"
    assert int(environment({}, {})["OMP_NUM_THREADS"]) >= 1


@pytest.mark.parametrize("decided", ["", "1"])
def test_the_policy_says_which_cards_are_seen_whatever_is_set(decided: str) -> None:
    base = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    found = environment(base, {"CUDA_VISIBLE_DEVICES": decided, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == (decided, "PCI_BUS_ID")
    undecided = environment(base, {})
    assert undecided["CUDA_VISIBLE_DEVICES"] == "0"


def test_nothing_is_imported_from_the_folder_that_we_are_started_in(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("open('imported', 'w')\n")
    engine = subprocess.run(
        supervisor.COMMAND, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert b"Traceback" not in engine.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"random.py"}
