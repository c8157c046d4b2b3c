"""What the doctor says of how others reach this computer: of what an agent has found, and of what it tries itself."""

import sys
from pathlib import Path

import pytest

from legion.messages import Endpoint
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.reach import Reached
from legion_client.commands.reachability import reachability
from legion_client.paths import Home
from legion_client.settings import Network, Settings
from tests.client.commands.conftest import Client
from tests.client.conftest import RunningServer

RELAY = Reached(
    how="relay",
    endpoint=Endpoint(host="relay.example.org", port=8443, relayed=True),
    problem="203.0.113.7 port 7000 does not answer",
    relay="west",
    rtt_ms=12.3,
    mapping="the router at 192.168.1.1 does not speak NAT-PMP",
)


@pytest.fixture
def home(client: Client, server: RunningServer) -> Home:
    client.run("join", "-", stdin=str(server.invite()))
    return Home(client.home)


async def told(home: Home, found: Reached | None, network: Network = Network()) -> list[tuple[str, str, str]]:
    if found is not None:
        home.activity.mkdir(exist_ok=True)
        home.reachability.write_text(found.model_dump_json())
    known = Enrolment.load(home.identity)
    checks = await reachability(home, known, Settings(network=network), running=True)
    assert all(check.advice for check in checks if check.state == "problem")
    return [(check.name, check.state, check.found) for check in checks]


async def test_what_an_agent_has_found(home: Home) -> None:
    off = ("port mapping", "skipped", "not asked for: network.port_mapping is off")
    assert await told(home, None) == [("reachability", "skipped", "not known before training is prepared"), off]
    direct = Reached(how="direct", endpoint=Endpoint(host="203.0.113.7", port=7000))
    assert await told(home, direct) == [
        ("reachability", "ok", "other members reach this computer directly, at 203.0.113.7:7000"),
        off,
    ]
    through = (
        "others reach it through the relay west (relay.example.org:8443, 12 ms away), because directly they do not: "
        "203.0.113.7 port 7000 does not answer"
    )
    allowed = ("port mapping", "skipped", "the router at 192.168.1.1 does not speak NAT-PMP")
    assert await told(home, RELAY, Network(port_mapping=True)) == [("reachability", "ok", through), allowed]
    doubled = RELAY.model_copy(update={"doubled": "a program has registered with the same key from 198.51.100.9"})
    (name, state, found), _ = await told(home, doubled)
    assert (name, state) == ("reachability", "problem")
    assert "198.51.100.9" in found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere loopback has one address")
async def test_what_it_tries_itself(home: Home) -> None:
    """The server sees this computer at 127.0.0.1, where then nobody listens."""
    known = Enrolment.load(home.identity)
    settings = Settings(listen_host="127.0.0.2")
    check, _ = await reachability(home, known, settings, running=False)
    assert (check.name, check.state) == ("reachability", "problem")
    assert "127.0.0.2" in check.found
    assert "there is no relay" in check.found
    check, _ = await reachability(home, known, Settings(), running=False)
    assert check.state == "ok"
    assert "directly, at 127.0.0.1:" in check.found


async def test_without_a_server_there_is_nobody_to_ask(tmp_path: Path) -> None:
    checks = await reachability(Home(tmp_path), None, Settings(), running=False)
    assert {check.state for check in checks} == {"skipped"}
