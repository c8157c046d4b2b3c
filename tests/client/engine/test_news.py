"""What an engine hears of rounds before, while and after it takes part; and updates that the agent looks for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from identities import issue

from legion.comm.network import listen
from legion.config import RunConfig
from legion.errors import StorageFailed, Unavailable
from legion.ids import ClusterId, Rank
from legion.layout import Layout
from legion.messages import Message
from legion.outer.courier import Courier
from legion.outer.member import Place
from legion_client.engine import rounds
from legion_client.engine.protocol import RoundNews, UpdateHere, UpdateWanted
from legion_client.engine.rounds import AgentControl, Rounds
from tests.core.outer.small_rounds import RUN, UNITS, plan_of, record_of

DIGEST = "5" * 64


@contextlib.asynccontextmanager
async def taking_part(news: Rounds, folder: Path) -> AsyncIterator[Courier]:
    """A real network, to which nobody speaks."""
    [identity] = issue(folder / "identity", 1)
    network = await listen(identity, "127.0.0.1", 0)
    place = Place(RUN, ClusterId("a"), Rank(0), Layout(UNITS, (1,)), 4)
    try:
        async with news.taking_part(RunConfig(), identity, place, 0, network, folder) as courier:
            assert network.rounds.desk is courier
            yield courier
        assert network.rounds.desk is None
    finally:
        await network.leave("done")


async def test_news_that_comes_early_waits(tmp_path: Path) -> None:
    said: list[Message] = []
    news = Rounds(said.append)
    news.hear(RoundNews(plans=(plan_of(1), plan_of(0))))
    news.hear(RoundNews(plans=(plan_of(0),), gone=(ClusterId("b"),)))
    async with taking_part(news, tmp_path) as courier:
        assert (courier.ready, courier.plan(1)) == (0, plan_of(1))
        news.hear(RoundNews(plans=(plan_of(2),)))
        assert courier.plan(2) == plan_of(2)
    assert said == []


async def test_news_that_comes_late_changes_nothing(tmp_path: Path) -> None:
    """The engine still listens to its agent while it says goodbye to its peers."""
    news = Rounds(lambda _: None)
    async with taking_part(news, tmp_path):
        news.hear(RoundNews(plans=(plan_of(0),)))
    news.hear(RoundNews(plans=(plan_of(1),), records=(record_of(plan_of(0), ()).model_copy(update={"bounds": ()}),)))
    news.hear(UpdateHere(sha256=DIGEST, path=None))
    news.wake()


@pytest.mark.parametrize("when", ["before", "while"])
async def test_an_engine_that_is_to_stop_waits_for_no_anchor(tmp_path: Path, when: str) -> None:
    news = Rounds(lambda _: None)
    if when == "before":
        news.wake()
    async with taking_part(news, tmp_path) as courier:
        waiting = asyncio.create_task(asyncio.to_thread(courier.wait_ready, 3))
        if when == "while":
            news.wake()
        async with asyncio.timeout(30):
            await waiting
        assert courier.ready == -1


# Updates by way of the agent.


async def asked(control: AgentControl) -> "asyncio.Task[bytes]":
    task = asyncio.create_task(control.download(DIGEST, 6))
    await asyncio.sleep(0)
    return task


async def test_an_update_that_the_agent_finds_is_taken(tmp_path: Path) -> None:
    said: list[Message] = []
    control = AgentControl(said.append)
    (tmp_path / "update").write_bytes(b"update")
    task = await asked(control)
    assert said == [UpdateWanted(sha256=DIGEST, size_bytes=6)]
    control.here(UpdateHere(sha256="6" * 64, path=None))  # somebody else's answer
    control.here(UpdateHere(sha256=DIGEST, path=tmp_path / "update"))
    control.here(UpdateHere(sha256=DIGEST, path=None))  # repeated
    assert await task == b"update"
    assert not (tmp_path / "update").exists()
    control.here(UpdateHere(sha256=DIGEST, path=None))  # nobody waits any more


async def test_an_update_that_is_nowhere_may_be_asked_for_again(tmp_path: Path) -> None:
    control = AgentControl(lambda _: None)
    for _ in range(2):
        task = await asked(control)
        control.here(UpdateHere(sha256=DIGEST, path=None))
        with pytest.raises(Unavailable, match="not in storage"):
            await task
    (tmp_path / "update").write_bytes(b"update")
    task = await asked(control)
    control.here(UpdateHere(sha256=DIGEST, path=tmp_path / "update"))
    assert await task == b"update"


async def test_a_file_that_is_not_where_the_agent_says(tmp_path: Path) -> None:
    control = AgentControl(lambda _: None)
    task = await asked(control)
    control.here(UpdateHere(sha256=DIGEST, path=tmp_path / "nowhere"))
    with pytest.raises(StorageFailed, match="cannot be read"):
        await task


async def test_an_agent_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "DOWNLOAD_S", 0.01)
    control = AgentControl(lambda _: None)
    with pytest.raises(Unavailable, match="the agent did not say"):
        await control.download(DIGEST, 6)


async def test_two_that_want_the_same_update_get_it_both(tmp_path: Path) -> None:
    """As rounds that have an update in common do: the agent writes both to one place."""
    path, asked_for = tmp_path / "update", []

    def answer(wanted: Message) -> None:
        assert not path.exists()
        asked_for.append(wanted)
        path.write_bytes(b"update")
        asyncio.get_running_loop().call_soon(control.here, UpdateHere(sha256=DIGEST, path=path))

    control = AgentControl(answer)
    tasks = [await asked(control) for _ in range(3)]
    assert await asyncio.gather(*tasks) == [b"update"] * 3
    assert len(asked_for) == 3
