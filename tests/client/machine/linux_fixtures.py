"""Message buses and an X server of our own, started for a test and ended by it."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.client.machine.fake_service import FakeService
from tests.client.machine.private_desktop import MessageBus, Screen, XClient


def _needs(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian package {package})")


@pytest.fixture
def message_bus(tmp_path: Path) -> Iterator[MessageBus]:
    _needs("dbus-daemon", "dbus-daemon")
    with MessageBus(tmp_path / "bus") as bus:
        yield bus


@pytest.fixture
def serve(message_bus: MessageBus) -> Iterator[Callable[..., FakeService]]:
    """Starts a fake service on the private bus; the test may stop it earlier."""
    with ExitStack() as services:

        def start(name: str, *, on: MessageBus = message_bus) -> FakeService:
            return services.enter_context(FakeService(on.socket, name))

        yield start


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """An X server that wants a cookie."""
    _needs("Xvfb", "xvfb")
    with Screen(tmp_path_factory.mktemp("screen")) as screen:
        yield screen


@pytest.fixture
def window_manager(screen: Screen) -> Iterator[subprocess.Popen[bytes]]:
    _needs("openbox", "openbox")
    process = subprocess.Popen(["openbox", "--sm-disable"], env=screen.environment, stdout=subprocess.DEVNULL)
    try:
        with XClient(screen) as client:
            client.meet_window_manager(lambda: process.poll() is None)
        yield process
    finally:
        process.terminate()
        process.wait()
