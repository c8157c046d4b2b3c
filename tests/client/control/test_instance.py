"""One agent a home, also when the one before was killed: real processes."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from legion.errors import AgentNotRunning, AlreadyRunning, StorageFailed
from legion_client.control.client import Control
from legion_client.control.instance import own_folder, sole
from legion_client.control.server import serve
from legion_client.paths import Home
from tests.client.control.front_desk import FrontDesk

SCRIPT = Path(__file__).with_name("serving.py")


@pytest.mark.parametrize("where", ["unix", "loopback"])
async def test_the_socket_of_an_agent_that_was_killed_is_replaced(tmp_path: Path, where: str) -> None:
    home = Home(tmp_path / "home")
    agent = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), str(home.root), where, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert agent.stdout is not None
        assert await agent.stdout.readline() == b"ready\n"
        with pytest.raises(AlreadyRunning, match=f"as process {agent.pid}"):
            async with serve(home, FrontDesk()):
                pass
        assert (await Control(home).status()).headline == "Waiting for a run"
    finally:
        agent.kill()
        await agent.wait()
    with pytest.raises(AgentNotRunning, match="ended without a word"):
        await Control(home).status()
    async with asyncio.timeout(60), serve(home, FrontDesk()):
        assert (await Control(home).status()).headline == "Waiting for a run"


def test_the_lock_does_not_go_to_children(tmp_path: Path) -> None:
    with sole(tmp_path / "control"):
        child = subprocess.Popen(
            [sys.executable, "-c", "print('here', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
    with child, sole(tmp_path / "control"):
        child.communicate(b"\n")


def test_a_folder_that_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be used: File exists"):
        own_folder(tmp_path / "file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed, match="not a folder of yours"):
        own_folder(tmp_path / "link")
    (tmp_path / "open").mkdir(mode=0o755)
    assert own_folder(tmp_path / "open").stat().st_mode & 0o777 == 0o700
