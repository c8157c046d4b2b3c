"""An agent in the window's own process: the window hears of its end, however that comes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from legion.errors import LegionError
from legion_client.agent import guard
from legion_client.paths import Home
from legion_client.settings import Settings
from legion_client.ui.conversation import Conversation
from legion_client.ui.near import hosted


async def test_an_agent_that_fails_is_told_of_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(guard, "decide", failing)
    talk, lost = Conversation(), list[LegionError]()
    talk.lost.connect(lost.append)
    async with asyncio.timeout(30):  # the talk ends by itself
        await talk.serve(lambda: hosted(Home(tmp_path / "home"), Settings, lambda _: None, lambda: None))
    assert [str(error) for error in lost] == ["Legion failed and trains no more: ZeroDivisionError: a defect"]
    assert "bug report" in (lost[0].hint or "")


async def test_a_talk_that_ends_ends_the_agent(tmp_path: Path) -> None:
    talk, lost = Conversation(), list[LegionError]()
    talk.lost.connect(lost.append)
    told = asyncio.Event()
    talk.status_changed.connect(lambda _: told.set())
    serving = asyncio.create_task(
        talk.serve(lambda: hosted(Home(tmp_path / "home"), Settings, lambda _: None, lambda: None))
    )
    async with asyncio.timeout(30):
        await told.wait()
        serving.cancel()
        await asyncio.wait({serving})
    assert serving.cancelled()
    assert lost == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
