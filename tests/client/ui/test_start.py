"""What is done before the volunteer sees something, and what after."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from legion.errors import AgentNotRunning, AlreadyRunning
from legion_client.commands import desktop as command
from legion_client.control.server import serve
from legion_client.paths import Home
from legion_client.settings import Settings
from legion_client.ui import desktop as module
from legion_client.ui.app import converse
from legion_client.ui.desktop import Desktop
from tests.client.ui.conftest import Stage
from tests.client.ui.memory_desk import MemoryDesk


def no_agent_here(_: Any) -> None:
    pytest.fail("an agent that is not this home's has been asked for a window")


def test_the_tray_waits_for_none_of_what_the_agent_needs() -> None:
    code = (
        "import sys, legion_client.cli, legion_client.commands.desktop, legion_client.ui.app\n"
        "slow = {'pydantic', 'cryptography', 'httpx', 'qasync', 'psutil', 'numpy', 'rich', 'tomlkit', 'pyqtgraph'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_agent_waits_until_the_window_is_drawn(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        began: list[str] = []

        class Seat:
            async def __aenter__(self) -> Any:
                began.append("drawn" if desktop._drawn.is_set() else "not drawn")
                raise AlreadyRunning("no need to go on")

            async def __aexit__(self, *error: Any) -> None: ...

        desktop.raise_window()
        await converse(desktop, Seat)
        assert began == ["drawn"]

    stage.run(play)


def test_a_window_that_nobody_sees_holds_nothing_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWN_S", 0.01)

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        assert not desktop.window.isVisible()
        await desktop.seen()
        assert not desktop._drawn.is_set()

    stage.run(play)


@pytest.mark.parametrize("link", [None, "legion://an.invite"])
async def test_of_two_starts_at_once_one_stays_and_shows_its_window(tmp_path: Path, link: str | None) -> None:
    home, desk = Home(tmp_path / "home"), Shown()
    async with serve(home, desk):
        with pytest.raises(AlreadyRunning):
            async with command.near(home, Settings, no_agent_here, lambda: None, link):
                pytest.fail("two agents with one home")
    assert desk.shown == [link]


async def test_one_that_does_not_listen_yet_is_waited_for(tmp_path: Path) -> None:
    home, desk = Home(tmp_path / "home"), Shown()
    asking = asyncio.create_task(command._show_soon(home, None))
    await asyncio.sleep(0)
    async with serve(home, desk):
        await asking
    assert desk.shown == [None]


async def test_one_that_never_listens_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ANNOUNCED_S", 0.01)
    with pytest.raises(AgentNotRunning, match="does not listen"):
        await command._show_soon(Home(tmp_path / "home"), None)


class Shown(MemoryDesk):
    """With a window."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str | None] = []

    async def show(self, invite: str | None) -> None:
        self.shown.append(invite)


def test_what_runs_already_needs_no_second_window(stage: Stage) -> None:
    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.conversation.lost.emit(AlreadyRunning("it was a moment faster"))
        await desktop.left()

    stage.run(play)
