"""The computer shuts down in the middle of a round: what was learned is kept, as one program among all that end."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from legion.outer.state import opened
from legion_client.paths import Home
from legion_client.settings import change
from tests.client.commands.conftest import Client
from tests.client.conftest import RunningServer
from tests.client.machine.fake_logind import LOGIND, MANAGER, Locks, announce
from tests.client.machine.fake_service import FakeService
from tests.client.machine.private_desktop import MessageBus

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and buses of Linux")
WITHIN_S = 90.0
ROUND = {"cluster": {"policy": "solo"}, "rounds": {"steps": 20_000, "codec": "onebit"}, "steps": 40_000}


@contextmanager
def training(client: Client, server: RunningServer, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A service in the middle of a long round."""
    server.configure(**ROUND)
    client.run("join", "-", stdin=str(server.invite()))
    # Somebody shares this computer, but nothing of what else it does is a reason to wait.
    rules = {"memory.in_use_percent": 100, "memory.idle_percent": 100, "disk.least_free_gb": 0}
    change(Home(client.home).settings, rules | {"programs.pause_full_screen": False, "power.pause_on_battery": False})
    command = [sys.executable, "-m", "legion_client", "--no-gui"]
    with subprocess.Popen(command, env=client.environment | environment, stderr=subprocess.PIPE, text=True) as service:
        try:
            assert service.stderr is not None
            says(service, "phase=training")
            while server.call("GET", "/metrics")["step"] < 2:
                assert service.poll() is None
            yield service
        finally:
            service.kill()
            service.stderr.read()


def says(service: subprocess.Popen[str], text: str) -> None:
    """Until it has logged this."""
    assert service.stderr is not None
    assert any(text in line for line in service.stderr), f"it ended without {text!r}"


def assert_kept(client: Client) -> None:
    """The contribution and what waited for the next one, whole."""
    with opened(Home(client.home).local_state) as kept:
        kept.check()
        assert kept.info.final
        assert kept.info.steps >= 2


def test_a_signal_to_every_process_of_the_session(client: Client, server: RunningServer) -> None:
    """As a service manager and a system that shuts down send it: to the agent and to its engine alike."""
    with training(client, server) as service:
        engines = psutil.Process(service.pid).children(recursive=True)
        assert engines
        for process in (*engines, psutil.Process(service.pid)):
            process.send_signal(signal.SIGTERM)
        says(service, "local state kept")
        assert_kept(client)
        assert service.wait(WITHIN_S) == 0
        assert not [process for process in engines if process.is_running()]
    workers = server.call("GET", "/workers")
    assert [worker["state"] for worker in workers] == ["offline"]


def test_logind_announces_it_and_waits_for_us(client: Client, server: RunningServer, tmp_path: Path) -> None:
    locks = Locks()
    with MessageBus(tmp_path / "bus") as bus, FakeService(bus.socket, LOGIND) as logind:
        logind.on(MANAGER, "Inhibit", locks.give).property(MANAGER, "InhibitDelayMaxUSec", "t", 5_000_000)
        with training(client, server, DBUS_SYSTEM_BUS_ADDRESS=bus.address) as service:
            assert locks.held == [True]
            announce(logind, "PrepareForShutdown", True)
            says(service, "local state kept")
            assert_kept(client)
            while any(locks.held):
                assert service.poll() is None
            assert service.wait(WITHIN_S) == 0
    locks.close()
    happenings = (client.home / "activity" / "happenings.jsonl").read_text()
    assert "The computer shuts down: what was learned is kept." in happenings
