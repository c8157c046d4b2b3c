"""The desk over real sockets, Unix and loopback: every request, and everything a connection can do wrong."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legion.errors import (
    AgentNotRunning,
    AlreadyRunning,
    LegionError,
    ProtocolMismatch,
    Refused,
    TooManyRequests,
    Unusable,
)
from legion_client.control import server
from legion_client.control.address import Address
from legion_client.control.client import Control, Lost
from legion_client.control.messages import (
    ChangeSettings,
    Done,
    Finish,
    GetHappenings,
    GetSamples,
    GetSettings,
    Happening,
    HappeningsAre,
    Join,
    Leave,
    ModeNow,
    Pause,
    Quit,
    Resume,
    SamplesAre,
    SetMode,
    SettingsAre,
    Show,
    Status,
)
from legion_client.control.server import serve
from legion_client.paths import Home
from tests.client.control.front_desk import FrontDesk

HELLO = {"kind": "hello", "protocol": 1}


@pytest.fixture(params=["unix", "loopback"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[FrontDesk, Home]]:
    desk, home = FrontDesk(), Home(tmp_path / "home")
    async with asyncio.timeout(60), serve(home, desk, loopback=request.param == "loopback"):
        yield desk, home


@pytest.fixture
async def at_unix(tmp_path: Path) -> AsyncIterator[tuple[FrontDesk, Home]]:
    desk, home = FrontDesk(), Home(tmp_path / "home")
    async with asyncio.timeout(60), serve(home, desk, loopback=False):
        yield desk, home


class Raw:
    """A connection that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, home: Home) -> AsyncIterator["Raw"]:
        reader, writer = await asyncio.open_unix_connection(Address.read(home.control).path)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def say(self, *lines: Any) -> None:
        for line in lines:
            self.writer.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        await self.writer.drain()

    async def hear(self) -> dict[str, Any]:
        line = await self.reader.readline()
        return json.loads(line) if line else {}


async def test_every_request_reaches_the_desk(served: tuple[FrontDesk, Home]) -> None:
    desk, home = served
    control = Control(home)
    assert await control.status() == desk.now
    assert isinstance(await control.request(Pause(until=5.0)), Done)
    assert (await control.status()).headline == "Paused until 5"
    await control.request(Resume())
    await control.request(Finish())
    await control.request(SetMode(axis="gpu", mode="never", until=9.0))
    await control.request(Join(invite="legion://h:1/?token=t&ca=c"))
    now = await control.status()
    assert (now.face, now.finishing, now.modes) == ("waiting", True, {"gpu": ModeNow(mode="never", until=9.0)})
    assert (now.server, desk.invites) == ("127.0.0.1:1", ["legion://h:1/?token=t&ca=c"])
    await control.request(Leave())
    assert (await control.status()).server is None
    assert await control.request(ChangeSettings(values={"name": "cellar"})) == Done()
    assert await control.request(GetSettings()) == SettingsAre(
        values={"name": "cellar", "listen_port": 0}, chosen=("name",)
    )
    desk.happens("one")
    desk.happens("two")
    found = await control.request(GetHappenings(after=1))
    assert isinstance(found, HappeningsAre)
    assert [happening.sentence for happening in found.happenings] == ["two"]
    samples = await control.request(GetSamples(since=7.0, most=10_000))
    assert isinstance(samples, SamplesAre)
    assert (len(samples.samples), samples.samples[-1].at) == (10_000, 10_006.0)
    await control.request(Quit())
    assert desk.ended.is_set()


async def test_a_window_is_raised_where_there_is_one(served: tuple[FrontDesk, Home]) -> None:
    desk, home = served
    with pytest.raises(Refused, match="no window"):
        await Control(home).request(Show())
    desk.has_window = True
    await Control(home).request(Show(invite="legion://x"))
    assert desk.shown == ["legion://x"]


async def test_an_agent_has_one_window_that_is_attached(served: tuple[FrontDesk, Home]) -> None:
    _, home = served
    first, second = Window(home), Window(home, invite="legion://an.invite")
    with pytest.raises(Refused):
        await Control(home).request(Show())
    async with first.attached() as told:
        assert isinstance(await anext(told), Status)
        assert isinstance(await Control(home).request(Show(invite="legion://b")), Done)
        async with second.attached() as refused:
            lost = await anext(refused)
        assert isinstance(lost, Lost)
        assert isinstance(lost.error, AlreadyRunning)
        home_again = asyncio.ensure_future(anext(told))  # reads what was sent
        while len(first.shown) < 2:  # noqa: ASYNC110  another connection brings it
            await asyncio.sleep(0)
        home_again.cancel()
        assert first.shown == ["legion://b", "legion://an.invite"]
        with contextlib.suppress(asyncio.CancelledError):
            await home_again
    while True:  # once the agent has seen that the first went away
        async with second.attached() as told:
            if isinstance(await anext(told), Status):
                break
    assert second.shown == []


class Window:
    """A follower that stands for the agent's window."""

    def __init__(self, home: Home, invite: str | None = None) -> None:
        self.shown: list[str | None] = []
        self._control = Control(home, shown=self.shown.append, invite=invite)

    @contextlib.asynccontextmanager
    async def attached(self) -> AsyncIterator[AsyncIterator[Any]]:
        async with contextlib.aclosing(self._control.follow()) as told:
            yield told


async def test_what_the_desk_refuses_comes_out_as_it_went_in(
    served: tuple[FrontDesk, Home], caplog: pytest.LogCaptureFixture
) -> None:
    desk, home = served
    with pytest.raises(Unusable, match="no setting 'colour'") as refused:
        await Control(home).request(ChangeSettings(values={"colour": "red", "name": "x"}))
    assert refused.value.hint == "See 'legion-client settings list'."
    assert desk.chosen == {}
    with pytest.raises(LegionError, match="failed to answer: KeyError"):
        await Control(home).request(ChangeSettings(values={"bug": 1}))
    assert "control request failed kind=change_settings" in caplog.text
    assert await Control(home).status() == desk.now


async def test_followers_hear_every_happening_and_the_newest_status(served: tuple[FrontDesk, Home]) -> None:
    desk, home = served
    heard: list[Status | Happening] = []
    async with contextlib.aclosing(Control(home).follow_once()) as changes:
        async for change in changes:
            heard.append(change)
            if len(heard) == 1:
                desk.becomes(headline="Training", face="training")
                desk.happens("one")
                desk.happens("two")
            if len(heard) == 4:
                break
    assert heard[1] == desk.now
    assert [change.sentence for change in heard if isinstance(change, Happening)] == ["one", "two"]
    await desk.until_followers(0)


async def test_a_follower_finds_the_next_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legion_client.control.client.AGAIN_S", 0.01)
    monkeypatch.setattr("legion_client.control.client.LONGEST_AGAIN_S", 0.02)
    home, heard = Home(tmp_path / "home"), asyncio.Queue[Status | Happening | Lost]()

    async def follow() -> None:
        async for change in Control(home).follow():
            heard.put_nowait(change)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        first = await heard.get()
        assert isinstance(first, Lost)
        assert isinstance(first.error, AgentNotRunning)
        for headline in ("the first", "the second"):
            async with serve(home, FrontDesk(Status(version="1", face="waiting", headline=headline))):
                told = await heard.get()
                assert isinstance(told, Status)
                assert told.headline == headline
            assert isinstance(await heard.get(), Lost)
        following.cancel()


async def test_one_agent_a_home(at_unix: tuple[FrontDesk, Home], tmp_path: Path) -> None:
    desk, home = at_unix
    with pytest.raises(AlreadyRunning, match=r"as process [0-9]+"):
        async with serve(home, FrontDesk()):
            pass
    assert await Control(home).status() == desk.now  # the first one's socket is untouched
    async with serve(Home(tmp_path / "other"), FrontDesk()):
        pass


async def test_nobody_runs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(AgentNotRunning, match="no agent runs"):
        await Control(home).status()
    async with serve(home, FrontDesk()):
        pass
    with pytest.raises(AgentNotRunning, match="no agent runs"):
        await Control(home).status()
    (home.control / "address.json").write_text("[")
    with pytest.raises(AgentNotRunning, match="damaged"):
        await Control(home).status()


@pytest.mark.parametrize(
    ("hello", "slug", "says"),
    [
        ({"kind": "hello", "protocol": 2, "novelty": []}, "protocol-mismatch", "speaks version 2"),
        ({"kind": "hello"}, "protocol-mismatch", "speaks version None"),
        ({"kind": "status"}, "unusable", "must be a hello"),
        ([], "unusable", "must be a hello"),
        (b"GET / HTTP/1.1\r\n\r\n", "unusable", "must be a hello"),
        (b"\xff\xfe\n", "unusable", "must be a hello"),
        (b"\n", "unusable", "must be a hello"),
        (b"x" * 300_000, "unusable", "longer than the limit"),
        (b"[" * 200_000 + b"\n", "unusable", "must be a hello"),
        ({"kind": "hello", "protocol": 1, "token": "guess"}, "refused", "does not know this agent's secret"),
    ],
)
async def test_a_wrong_hello_is_answered_with_a_sentence(
    at_unix: tuple[FrontDesk, Home], hello: Any, slug: str, says: str
) -> None:
    desk, home = at_unix
    async with Raw.to(home) as raw:
        with contextlib.suppress(ConnectionError):
            await raw.say(hello)
        answer = await raw.hear()
        assert (answer["kind"], answer["slug"]) == ("refused", slug)
        assert says in answer["message"]
        assert await raw.hear() == {}
    assert await Control(home).status() == desk.now


async def test_a_request_that_makes_no_sense_leaves_the_connection_open(at_unix: tuple[FrontDesk, Home]) -> None:
    _, home = at_unix
    async with Raw.to(home) as raw:
        await raw.say(HELLO, {"kind": "dance"}, {"kind": "pause", "until": "soon"}, b"nonsense\n", {"kind": "status"})
        answers = [await raw.hear() for _ in range(5)]
    assert [answer["kind"] for answer in answers] == ["welcome", "refused", "refused", "refused", "status_is"]
    assert all("does not understand" in answer["message"] for answer in answers[1:4])


async def test_the_secret_of_an_invite_does_not_come_back_in_a_refusal(at_unix: tuple[FrontDesk, Home]) -> None:
    _, home = at_unix
    async with Raw.to(home) as raw:
        await raw.say(HELLO, {"kind": "join", "invite": ["legion://h:1/?token=SECRET"]})
        assert (await raw.hear())["kind"] == "welcome"
        assert "SECRET" not in json.dumps(await raw.hear())


async def test_silent_and_slow_ones_hold_nobody_up(
    at_unix: tuple[FrontDesk, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, home = at_unix
    async with Raw.to(home) as deaf:
        await deaf.say(HELLO, {"kind": "follow"})
        await desk.until_followers(1)
        monkeypatch.setattr("legion_client.control.lines.SEND_S", 0.05)
        for _ in range(100):  # more than buffers hold, and nobody reads it
            desk.happens("x" * 100_000)
        assert (await Control(home).status()).headline == "Waiting for a run"
        await desk.until_followers(0)
    monkeypatch.setattr(server, "HELLO_S", 0.05)
    async with Raw.to(home) as silent:
        assert await silent.hear() == {}
    async with Raw.to(home) as half:
        await half.say(b'{"kind": "he')
        assert await half.hear() == {}


async def test_too_many_connections_are_turned_away(
    at_unix: tuple[FrontDesk, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, home = at_unix
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 2)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            raw = await stack.enter_async_context(Raw.to(home))
            await raw.say(HELLO, {"kind": "follow"})
            assert (await raw.hear())["kind"] == "welcome"
        await desk.until_followers(2)
        with pytest.raises(TooManyRequests, match="2 windows and commands"):
            await Control(home).status()
    await desk.until_followers(0)
    assert await Control(home).status() == desk.now


async def test_an_agent_of_another_version_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    async with serve(home, FrontDesk()):
        monkeypatch.setattr(server, "PROTOCOL", 3)
        with pytest.raises(ProtocolMismatch, match=r"speaks version 3 .* speaks version 1") as mismatch:
            await Control(home).status()
        assert "Restart the agent" in mismatch.value.hint


async def test_nothing_stays_behind_and_followers_end_with_the_agent(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    async with asyncio.timeout(60):
        async with serve(home, FrontDesk()):
            changes = Control(home).follow_once()
            assert isinstance(await anext(changes), Status)
        with pytest.raises(AgentNotRunning):
            await anext(changes)
    assert sorted(path.name for path in home.control.iterdir()) == ["agent.lock"]


async def test_what_ends_the_agent_comes_out_as_itself(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")

    async def ends() -> None:
        async with serve(home, FrontDesk()), contextlib.aclosing(Control(home).follow_once()) as changes:
            await anext(changes)
            raise Unusable("over")

    with pytest.raises(Unusable, match="over"):
        await ends()
