"""A real X server, a real window manager, real windows."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion.errors import Unavailable
from legion_client.machine.games_linux import X11Screen
from legion_client.machine.idle_linux import X11Idle
from legion_client.machine.screen import ScreenUse
from legion_client.machine.x11 import Display, cookie, display_number
from tests.client.machine.private_desktop import Screen, XClient, read_to_end

FULL_SCREEN = "_NET_WM_STATE_FULLSCREEN"


@pytest.fixture
def client(screen: Screen) -> Iterator[XClient]:
    with XClient(screen) as client:
        yield client


async def until(expected: bool, display: Display, client: XClient, window: int) -> None:
    """The window manager takes a moment; every look is an answer of the server, so this does not spin.

    It is asked again only once another window has the keyboard than when it was asked: it is slower than the server
    is, and would fall behind with thousands of requests, which it works off one by one.
    """
    asked_at: int | None = window
    async with asyncio.timeout(20):
        while await display.full_screen() is not expected:
            active = client.active()
            if active not in (window, asked_at):
                client.bring_to_front(window)
                asked_at = active


async def test_idle_time_grows_until_the_mouse_moves(screen: Screen, client: XClient) -> None:
    display = Display(screen.environment)
    idle = X11Idle(display)
    client.move_mouse()
    first = await idle.read()
    assert first is not None
    async with asyncio.timeout(20):
        while ((later := await idle.read()) or 0) < first + 0.2:
            pass
    client.move_mouse()
    now = await idle.read()
    assert now is not None
    assert later is not None
    assert now < later
    await display.close()


async def test_idle_under_wayland_is_unknown(screen: Screen) -> None:
    """XWayland's server only sees input to its own windows."""
    for variable in ({"WAYLAND_DISPLAY": "wayland-0"}, {"XDG_SESSION_TYPE": "wayland"}):
        display = Display(screen.environment | variable)
        assert await display.idle_s() is None
        await display.close()


async def test_without_a_window_manager_full_screen_is_unknown(screen: Screen) -> None:
    display = Display(screen.environment)
    assert await X11Screen(display).read() == ScreenUse(full_screen=None)
    await display.close()


@pytest.mark.usefixtures("window_manager")
async def test_active_window_in_full_screen_is_seen(screen: Screen, client: XClient) -> None:
    display = Display(screen.environment)
    wayland = Display(screen.environment | {"WAYLAND_DISPLAY": "wayland-0"})
    desk = client.open_window()
    await until(False, display, client, desk)
    game = client.open_window(FULL_SCREEN)
    await until(True, display, client, game)
    assert await X11Screen(display).read() == ScreenUse(full_screen=True)
    assert await wayland.full_screen() is True
    client.close_window(game)
    await until(False, display, client, desk)
    assert await wayland.full_screen() is None
    await display.close()
    await wayland.close()


async def test_window_that_vanishes_between_two_questions_is_no_error(screen: Screen, client: XClient) -> None:
    """Nobody corrects the root's property here, as a window manager that is slow or has crashed."""
    display = Display(screen.environment)
    window = client.open_window(FULL_SCREEN)
    client.set_active(window)
    assert await display.full_screen() is True
    client.close_window(window)
    assert await display.full_screen() is False
    client.set_active(0)
    assert await display.full_screen() is False
    client.forget_active()
    assert await display.full_screen() is None
    await display.close()


async def test_wrong_cookie_is_a_clear_error(screen: Screen, tmp_path: Path) -> None:
    display = Display(screen.environment | {"XAUTHORITY": str(tmp_path / "none")})
    with pytest.raises(Unavailable, match=r"does not let us in: .*uthoriz"):
        await display.idle_s()
    await display.close()


async def test_no_display_is_no_error(tmp_path: Path) -> None:
    for environment in ({}, {"DISPLAY": ":9"}, {"DISPLAY": "far.example:0"}, {"DISPLAY": "localhost:10.0"}):
        display = Display(environment, sockets=tmp_path)
        assert await display.idle_s() is None
        assert await display.full_screen() is None
        await display.close()


async def test_server_that_hangs_is_given_up_and_asked_anew_later(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "X7"))
        silent.listen()
        display = Display({"DISPLAY": ":7"}, sockets=tmp_path)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await display.idle_s()
            accepted, _ = silent.accept()
            await asyncio.to_thread(read_to_end, accepted)
        await display.close()


async def test_server_that_ends_does_not_end_us(screen: Screen, tmp_path: Path) -> None:
    with Screen(tmp_path) as other:
        display = Display(other.environment)
        assert await display.idle_s() is not None
    with pytest.raises((OSError, EOFError)):
        await display.idle_s()
    assert await display.idle_s() is None
    await display.close()


@pytest.mark.parametrize(
    ("display", "number"),
    [(":0", "0"), (":12.1", "12"), ("unix:3", "3"), ("", None), ("host:0", None), ("/tmp/launchd:0", None)],
)
def test_only_displays_of_this_computer_count(display: str, number: str | None) -> None:
    assert display_number({"DISPLAY": display}) == number


def test_cookie_of_the_right_host_and_display_is_chosen() -> None:
    def entry(family: int, host: bytes, number: bytes, name: bytes, data: bytes) -> bytes:
        fields = (host, number, name, data)
        return family.to_bytes(2) + b"".join(len(field).to_bytes(2) + field for field in fields)

    magic = b"MIT-MAGIC-COOKIE-1"
    file = (
        entry(256, b"other", b"0", magic, b"a" * 16)
        + entry(256, b"here", b"1", magic, b"b" * 16)
        + entry(0, b"\x7f\0\0\1", b"0", magic, b"c" * 16)
        + entry(256, b"here", b"0", b"XDM-AUTHORIZATION-1", b"d" * 16)
        + entry(256, b"here", b"0", magic, b"e" * 16)
    )
    assert cookie(file, "0", "here") == b"e" * 16
    assert cookie(file, "2", "here") == b""
    assert cookie(entry(65535, b"", b"", magic, b"f" * 16), "9", "here") == b"f" * 16


def test_the_window_manager_of_these_tests_runs(window_manager: subprocess.Popen[bytes]) -> None:
    assert window_manager.poll() is None
