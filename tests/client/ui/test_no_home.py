"""The window where no agent can live: it opens, and says why nothing is computed."""

import asyncio
from pathlib import Path

import pytest
from PySide6.QtCore import QLocale

from legion_client.commands.desktop import near
from legion_client.paths import Home
from legion_client.settings import Settings
from legion_client.ui.app import attend
from legion_client.ui.desktop import Desktop
from legion_client.ui.language import QtWords
from legion_client.ui.loop import Loop
from tests.client.ui.conftest import Stage, until


@pytest.mark.parametrize("place", ["file/legion", "proc"])
def test_a_home_that_takes_nothing_is_told_in_the_window(stage: Stage, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    home = Home(tmp_path / place if place != "proc" else Path("/proc/legion"))
    if place == "proc" and not home.root.parent.is_mount():
        pytest.skip("there is no such place here")
    desktop = Desktop(stage.application, home, QtWords(QLocale(QLocale.Language.English)))

    async def whole() -> None:
        def seat():  # type: ignore[no-untyped-def]
            return near(home, Settings, lambda _: None, home.require_writable, None)

        desktop.raise_window()
        talk = asyncio.create_task(attend(desktop, seat))
        await until(lambda: desktop.view.face == "warning")
        assert str(home.root) in desktop.view.headline
        assert "choose another folder with --home" in desktop.view.headline
        assert desktop.window.isVisible()
        desktop.leave()
        await talk

    with asyncio.Runner(loop_factory=lambda: Loop(stage.application)) as runner:
        runner.run(whole())
    desktop.end()
