"""What looks after an agent without a window: systemd's socket, the end of the time, the end of the work."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion.errors import Unusable
from legion_client.commands.headless import attended, is_done
from legion_client.control.client import Control
from legion_client.control.messages import RunNow, Status, Why
from legion_client.control.server import serve
from legion_client.control.systemd import Notifier, notifier, watchdog_s
from legion_client.paths import Home
from tests.client.control.front_desk import WAITING, FrontDesk


class Outlet:
    """systemd's end of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    async def hear(self) -> list[str]:
        async with asyncio.timeout(30):
            return (await asyncio.get_running_loop().sock_recv(self.socket, 65536)).decode().split("\n")

    async def until(self, line: str) -> None:
        while line not in await self.hear():
            pass


@pytest.fixture
def outlet(tmp_path: Path) -> Iterator[Outlet]:
    outlet = Outlet(str(tmp_path / "notify"))
    with outlet.socket:
        yield outlet


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set in place of a SIGTERM to this process."""
    asked = asyncio.Event()
    monkeypatch.setattr(signal, "raise_signal", lambda number: asked.set() if number == signal.SIGTERM else None)
    return asked


async def test_systemd_hears_of_the_whole_life(outlet: Outlet, tmp_path: Path) -> None:
    teller, desk, home = notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}), FrontDesk(), Home(tmp_path / "home")
    over = asyncio.Event()

    async def giving() -> None:
        async with serve(home, desk):
            await over.wait()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(attended(giving(), Control(home), teller, watched_s=0.02))
        assert await outlet.hear() == ["READY=1", "STATUS=Starting"]
        await outlet.until("STATUS=Waiting for a run")
        desk.becomes(headline="Training:\nround 3")
        await outlet.until("STATUS=Training: round 3")
        await outlet.until("WATCHDOG=1")
        over.set()
        await outlet.until("STOPPING=1")


async def test_what_ends_the_agent_comes_out_and_nothing_stays(outlet: Outlet, tmp_path: Path) -> None:
    async def failing() -> None:
        raise Unusable("no")

    teller = Notifier(str(tmp_path / "notify"))
    with pytest.raises(Unusable, match="no"):
        await attended(failing(), Control(Home(tmp_path)), teller, watched_s=60.0, exit_when_done=True, max_hours=1.0)
    assert len(asyncio.all_tasks()) == 1
    await outlet.until("STOPPING=1")


async def test_a_manager_that_does_not_listen_stops_nothing(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).tell("READY=1")
    Notifier("x" * 200).tell("READY=1")


def test_abstract_sockets() -> None:
    name = f"legion-test-{id(object())}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outlet:
        outlet.bind(f"\0{name}")
        teller = notifier({"NOTIFY_SOCKET": f"@{name}"})
        assert teller is not None
        teller.tell("READY=1")
        assert outlet.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "@", "relative", "vsock:2:1"])
def test_what_is_no_socket(address: str) -> None:
    assert notifier({"NOTIFY_SOCKET": address}) is None
    assert notifier({}) is None


@pytest.mark.parametrize(
    ("environment", "within_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog(environment: dict[str, str], within_s: float | None) -> None:
    assert watchdog_s(environment, 7) == within_s


async def test_the_end_of_the_time(tmp_path: Path, terms: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await attended(_until(terms), Control(Home(tmp_path)), None, max_hours=1e-6)


async def test_the_end_of_the_work(tmp_path: Path, terms: asyncio.Event) -> None:
    desk, home = FrontDesk(), Home(tmp_path / "home")

    async def finishing() -> None:
        async with serve(home, desk):
            await desk.until_followers(1)
            await desk.finish()
            assert not terms.is_set()
            desk.becomes(face="paused", reasons=(Why(slug="finished", sentence="The round is finished."),))
            await terms.wait()

    async with asyncio.timeout(60):
        await attended(finishing(), Control(home), None, exit_when_done=True)


async def _until(asked: asyncio.Event) -> None:
    await asked.wait()


@pytest.mark.parametrize(
    ("status", "done"),
    [
        (WAITING, False),
        (WAITING.model_copy(update={"finishing": True}), False),
        (WAITING.model_copy(update={"reasons": (Why(slug="paused", sentence="Paused."),)}), False),
        (WAITING.model_copy(update={"reasons": (Why(slug="finished", sentence="Finished."),)}), True),
        (WAITING.model_copy(update={"run": RunNow(run_id="r", phase="training", step=1, steps=2)}), False),
        (WAITING.model_copy(update={"run": RunNow(run_id="r", phase="complete", step=2, steps=2)}), True),
    ],
)
def test_when_there_is_nothing_left_to_do(status: Status, done: bool) -> None:
    assert is_done(status) == done
