"""One identity in two places at once, as of a home that was copied: a real server, two real agents."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from legion.errors import WorkerDoubled
from legion.relaying import new_nonce
from legion_client.agent.host import Host
from legion_client.agent.life import Phase
from legion_client.paths import Home
from legion_client.settings import Settings
from tests.client.agent.hosting import WAIT_S, hosted, reaches, seen

RunningServer = Any  # see conftest


async def test_the_newer_of_two_with_one_key_ends_and_the_older_is_told(server: RunningServer, tmp_path: Path) -> None:
    server.configure(start={"workers": 2})
    async with hosted(server, tmp_path / "attic") as (host, desk):
        await reaches(host, Phase.PREPARING, Phase.READY)
        shutil.copytree(Home(tmp_path / "attic").identity, Home(tmp_path / "copy").identity)
        copy = Host(Home(tmp_path / "copy"), Settings(name="copy"), polite=False)
        await copy.enrol(None)
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(WorkerDoubled) as ended:
                await copy.run()
        assert "another program, at 127.0.0.1, is worker " in str(ended.value)
        assert "join this one with an invite of its own" in ended.value.hint
        assert host.agent is not None
        found = host.agent.reach
        await seen(desk, lambda _: bool(found.found.doubled))
        assert "was started at 127.0.0.1; it has been turned away" in found.found.doubled
        workers, metrics = await asyncio.to_thread(
            lambda: [server.call("GET", path) for path in ("/workers", "/metrics")]
        )
        (worker,) = workers
        assert worker["state"] in ("preparing", "ready"), "nobody has said goodbye for it"
        assert metrics["workers_doubled"] == 1
    log = (tmp_path / "server.log").read_text()
    assert log.count("worker in two places") == 1


def test_every_program_draws_another() -> None:
    assert len({new_nonce() for _ in range(100)}) == 100
