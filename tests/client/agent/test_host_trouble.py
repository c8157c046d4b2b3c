"""What is told, in the window's words, of a server that is away, is another one, or does not want this computer."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from legion.errors import Refused
from legion.messages import Device
from legion_client.agent import attempt, memberships, service
from legion_client.agent.desk import AgentDesk
from legion_client.agent.enrolment import ENROLMENT_FILE
from legion_client.agent.host import Host
from tests.client.agent.hosting import RunningServer, hosted, seen
from tests.client.agent.relaying import SHAPE
from tests.client.conftest import RunningServer as Server

SCRIPT = Path(__file__).with_name("scripted_engine.py")
# An engine that only waits for its end: nothing here is about training.
QUIET = (sys.executable, "-c", "import sys; sys.stdin.read()")


async def told(desk: AgentDesk, kind: str) -> str:
    """The newest sentence of this kind, once there is one."""
    changes = desk.follow()
    try:
        async for _ in changes:
            if found := [line.sentence for line in await desk.happenings(0, 100) if line.kind == kind]:
                return found[-1]
    finally:
        await changes.aclose()
    raise AssertionError("the agent tells nothing more")


async def test_a_server_that_is_away_and_comes_back(server: RunningServer, tmp_path: Path) -> None:
    async with hosted(server, tmp_path / "home", engine_command=QUIET) as (host, desk):
        await seen(desk, lambda status: status.run is not None)
        await asyncio.to_thread(server.kill)
        beat_at_once(host)
        status = await seen(desk, lambda status: status.face == "offline")
        assert status.headline.startswith(f"The server is not heard: https://127.0.0.1:{server.port} cannot be reached")
        assert "the client keeps trying by itself" in status.headline
        assert "is not heard" in await told(desk, "server-away")
        await asyncio.to_thread(server.start)
        await seen(desk, lambda status: status.face != "offline")
        assert await told(desk, "server-back") == "The server is heard again, after 1 min."


async def test_another_server_in_its_place_is_sent_nothing(server: RunningServer, tmp_path: Path) -> None:
    """While it runs: it may be a hotel's login page, so it waits. At the next start it is no server of ours."""
    other = Server(tmp_path / "other")
    try:
        async with hosted(server, tmp_path / "home", engine_command=QUIET) as (host, desk):
            await seen(desk, lambda status: status.run is not None)
            await asyncio.to_thread(server.kill)
            other.port = server.port
            await asyncio.to_thread(other.start)
            status = await seen(desk, lambda status: "does not prove any more" in status.headline)
            assert status.face == "offline"
            assert "ask its operator for a new invite" in status.headline
            assert host.agent is not None, "it is tried again"
        assert [worker["name"] for worker in other.call("GET", "/workers")] == []
    finally:
        other.kill()


async def test_a_worker_that_was_revoked(server: RunningServer, tmp_path: Path) -> None:
    async with hosted(server, tmp_path / "home", engine_command=QUIET) as (host, desk):
        await seen(desk, lambda status: status.run is not None)
        assert host.enrolment is not None
        server.call("DELETE", f"/workers/{host.enrolment.worker_id}")
        beat_at_once(host)
        status = await seen(desk, lambda status: status.server is None)
        assert status.face == "warning"
        assert "removed by the operator" in status.headline
        assert "Ask the operator for a new invite" in status.headline
        assert "no longer takes part" in await told(desk, "run-ended")
        await desk.join(str(server.invite()))
        await seen(desk, lambda status: status.server is not None and status.face != "warning")


async def test_a_server_that_speaks_another_version(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(server, tmp_path / "home", engine_command=QUIET) as (host, desk):
        await seen(desk, lambda status: status.run is not None)
        monkeypatch.setattr(service, "PROTOCOL", 99)
        beat_at_once(host)
        status = await seen(desk, lambda status: status.server is None)
        assert (status.face, status.headline) == (
            "warning",
            "The client speaks protocol 99, this server 1. Install the same Legion version on both sides.",
        )


async def test_a_card_that_is_there_and_of_no_use(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a driver that is too old for torch: the processor computes, and nobody has to find out why it is slow."""
    card = Device(kind="cuda", name="GeForce GTX 680", memory_bytes=2 * 2**30)
    monkeypatch.setattr(attempt, "nvidia_devices", lambda: [card])
    script = tmp_path / "script.json"
    problem = "The NVIDIA driver on your system is too old (found version 11040)"
    script.write_text(json.dumps({"card_problem": problem}))
    script.with_name("shape.json").write_text(SHAPE.model_dump_json())
    server.configure(start={"workers": 2})
    command = (sys.executable, str(SCRIPT), str(script))
    async with hosted(server, tmp_path / "home", engine_command=command) as (_, desk):
        status = await seen(desk, lambda status: any(why.slug == "graphics-unusable" for why in status.reasons))
        [why] = [why for why in status.reasons if why.slug == "graphics-unusable"]
        assert why.sentence == f"Training cannot use the graphics card: {problem}."
        assert status.face == "waiting", "for the run, not for the card"


async def test_an_engine_whose_card_fails_is_started_again_and_says_why(server: RunningServer, tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"fail_at": 1, "slug": "engine-died", "message": "the graphics card failed: ECC"}))
    script.with_name("shape.json").write_text(SHAPE.model_dump_json())
    server.configure(cluster={"policy": "solo"}, rounds={"steps": 10, "codec": "int4"}, steps=1000)
    command = (sys.executable, str(SCRIPT), str(script))
    async with hosted(server, tmp_path / "home", engine_command=command) as (_, desk):
        assert await told(desk, "engine-crashed") == (
            "The training engine ended unexpectedly: the graphics card failed: ECC. It is started again."
        )
        status = await seen(desk, lambda status: any(why.slug == "engine-failed" for why in status.reasons))
        assert (status.face, "the graphics card failed: ECC" in status.headline) == ("warning", True)


async def test_a_membership_that_broke_off_is_tried_again_until_it_is_hopeless(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run is one cluster's, the engine's death is the end of the membership."""
    monkeypatch.setattr(memberships, "PAUSES_S", (0.05,))
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"fail_at": 1, "slug": "engine-died", "message": "the graphics card failed: ECC"}))
    script.with_name("shape.json").write_text(SHAPE.model_dump_json())
    server.configure(steps=1000)
    command = (sys.executable, str(SCRIPT), str(script))
    async with hosted(server, tmp_path / "home", engine_command=command) as (host, desk):
        assert "is tried again soon: the graphics card failed: ECC" in await told(desk, "run-broke-off")
        assert host.enrolment is not None
        await desk.leave()
        await seen(desk, lambda status: status.server is None)
        assert not (host.home.identity / ENROLMENT_FILE).exists()
        with pytest.raises(Refused, match="takes part in no run"):
            await desk.leave()


def beat_at_once(host: Host) -> None:
    """The next heartbeat, without the half minute before it."""
    assert host.agent is not None
    host.agent._beat_due.set()
