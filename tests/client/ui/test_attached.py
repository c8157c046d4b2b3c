"""A window of a headless agent: real server, real agent, real windows; only the volunteer is played."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from legion_client.commands.desktop import far
from legion_client.ui.desktop import Desktop
from legion_client.ui.doorbell import Doorbell
from legion_client.ui.joining import JoinDialog
from legion_client.ui.pages.home import HomePage
from tests.client.commands.conftest import Client
from tests.client.conftest import RunningServer
from tests.client.machine.private_desktop import Screen
from tests.client.ui.conftest import Stage
from tests.client.ui.memory_desk import MemoryDesk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an X server of its own, and signals")

LINK = f"legion://127.0.0.1:1/?token=t&ca={'a' * 64}"


@pytest.fixture
def client(stage: Stage) -> Client:
    return Client(stage.home.root)


@pytest.fixture
def headless(client: Client, server: RunningServer) -> Iterator[subprocess.Popen[str]]:
    """An agent that has joined, as a service would run it; it must outlive every window."""
    client.run("join", "-", stdin=str(server.invite()))
    command = [sys.executable, "-m", "legion_client", "--no-gui"]
    with subprocess.Popen(command, env=client.environment, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        for line in agent.stderr:
            if "phase=ready" in line:
                break
        try:
            yield agent
            assert agent.poll() is None
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.stderr.read()
        assert agent.wait() == 0


async def fact(holds: Callable[[], object]) -> None:
    """Real processes take their time."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  what widgets show has no event
            await asyncio.sleep(0)


async def second_start(client: Client, *arguments: str) -> None:
    """It must end by itself and well, while this window goes on."""
    assert await asyncio.to_thread(client.run, *arguments) == ""


def test_a_window_shows_and_steers_an_agent_of_another_process(
    stage: Stage, client: Client, server: RunningServer, headless: subprocess.Popen[str], qtbot: QtBot
) -> None:
    bell = Doorbell()

    async def play(desktop: Desktop, _: MemoryDesk) -> None:
        bell.answered_by(desktop.answer_door)
        desktop.raise_window()
        status = desktop.conversation.status
        assert status is not None
        assert status.server == f"127.0.0.1:{server.port}"
        page = desktop.window._pages["home"]
        assert isinstance(page, HomePage)
        await fact(page._pause.isVisible)
        qtbot.mouseClick(page._pause, Qt.MouseButton.LeftButton)
        await fact(page._resume.isVisible)
        told = await asyncio.to_thread(client.json, "status")
        assert (told["face"], told["headline"]) == ("paused", "Paused by you.")
        assert desktop.view.headline == told["headline"]
        desktop.window.hide()
        await second_start(client)
        await fact(desktop.window.isVisible)
        await second_start(client, "--link", LINK)
        await fact(lambda: isinstance(desktop.dialog, JoinDialog))
        assert isinstance(desktop.dialog, JoinDialog)
        assert desktop.dialog.invite == LINK
        desktop.ask_to_quit()  # asks nothing: training goes on
        await desktop.left()

    stage.run(play, attached=True, seat=lambda: far(stage.home, bell.ring, None))
    assert client.json("status")["face"] == "paused"


def test_of_two_windows_at_once_one_stays(
    client: Client, headless: subprocess.Popen[str], screen: Screen, tmp_path: Path
) -> None:
    environment = client.environment | screen.environment | {"QT_QPA_PLATFORM": "xcb"}
    environment |= {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CONFIG", "DATA")}
    command = [sys.executable, "-m", "legion_client"]
    with contextlib.ExitStack() as opened:
        starts = [opened.enter_context(subprocess.Popen(command, env=environment)) for _ in range(2)]
        try:
            while all(one.poll() is None for one in starts):
                pass
            gone, stays = sorted(starts, key=lambda one: one.poll() is None)
            assert gone.returncode == 0
            client.run()  # a third one finds the window that stays
            assert stays.poll() is None
            stays.send_signal(signal.SIGTERM)
            assert stays.wait() == 0
        finally:
            for one in starts:
                one.kill()
    assert client.json("status")["headline"]
