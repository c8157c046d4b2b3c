"""Where the socket lies, and who is let in at either end."""

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from legion.errors import (
    Refused,
    StorageFailed,
)
from legion_client.control import listener, server
from legion_client.control.address import Address, peer_uid
from legion_client.control.client import Control
from legion_client.control.messages import (
    Join,
)
from legion_client.control.server import serve
from legion_client.paths import Home
from tests.client.control.front_desk import FrontDesk

HELLO = {"kind": "hello", "protocol": 1}


@pytest.fixture
async def at_unix(tmp_path: Path) -> AsyncIterator[tuple[FrontDesk, Home]]:
    desk, home = FrontDesk(), Home(tmp_path / "home")
    async with asyncio.timeout(60), serve(home, desk, loopback=False):
        yield desk, home


async def test_the_socket_is_its_owners_alone(at_unix: tuple[FrontDesk, Home]) -> None:
    _, home = at_unix
    path = Address.read(home.control).path
    assert path == home.control / "socket"
    modes = {name: stat.S_IMODE(name.lstat().st_mode) for name in (home.control, path, home.control / "address.json")}
    assert list(modes.values()) == [0o700, 0o600, 0o600]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        assert peer_uid(connection) == os.getuid()


async def test_another_user_is_turned_away_at_both_ends(
    at_unix: tuple[FrontDesk, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, home = at_unix
    monkeypatch.setattr(server, "is_stranger", lambda _: True)
    with pytest.raises(Refused, match="belongs to another user"):
        await Control(home).status()
    monkeypatch.setattr("legion_client.control.client.is_stranger", lambda _: True)
    with pytest.raises(Refused, match="another user's program"):
        await Control(home).status()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A session's runtime folder, with a path as short as those are."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.mark.parametrize("home_name", ["x" * 200, "ü" * 60])
async def test_a_home_whose_path_is_too_long_for_a_socket(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, home_name: str
) -> None:
    home = Home(tmp_path / home_name)
    async with serve(home, FrontDesk()) as address:
        assert address.path is not None
        assert address.path.parent == runtime / "legion"
        assert stat.S_IMODE(address.path.parent.stat().st_mode) == 0o700
        assert (await Control(home).status()).headline == "Waiting for a run"
    assert not address.path.exists()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("y" * 200)))
    with pytest.raises(StorageFailed, match="too long"):
        async with serve(home, FrontDesk()):
            pass


@pytest.mark.usefixtures("runtime")
async def test_two_homes_with_long_paths_do_not_meet(tmp_path: Path) -> None:
    homes = [Home(tmp_path / ("x" * 200) / name) for name in ("one", "two")]
    async with serve(homes[0], FrontDesk()) as one, serve(homes[1], FrontDesk()) as two:
        assert one.path != two.path


async def test_a_program_that_took_a_dead_agents_port_learns_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "control"
    folder.mkdir(parents=True)
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.readline()
        writer.write(b'{"kind": "welcome", "version": "1", "proof": "guess"}\n')
        rest = await reader.read()
        writer.close()
        await writer.wait_closed()
        heard.put_nowait(hello + rest)

    impostor = await asyncio.start_server(pretend, "127.0.0.1", 0)
    address = Address(port=impostor.sockets[0].getsockname()[1], secret="s" * 64)
    listener.announce(folder, address)
    async with impostor:
        with pytest.raises(Refused, match="is not the agent"):
            await Control(Home(tmp_path / "home")).request(Join(invite="legion://h:1/?token=SECRET&ca=c"))
        told = await heard.get()
    assert b"hello" in told
    assert b"s" * 64 not in told
    assert b"SECRET" not in told


async def test_a_program_without_the_secret_is_refused_on_loopback(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    async with serve(home, FrontDesk(), loopback=True) as address:
        listener.announce(home.control, address.model_copy(update={"secret": "guess"}))
        with pytest.raises(Refused, match="does not know this agent's secret"):
            await Control(home).status()
