"""Asking a router for a port, in both ways, as the agent does it: opened, renewed, given back, and refused."""

import asyncio
import itertools
import sys
import threading
import time
from pathlib import Path

import pytest

from legion.messages import Endpoint
from legion_client.agent import port_mapping
from legion_client.agent.port_mapping import PortMapping
from legion_client.machine import natpmp, upnp
from legion_client.machine.mapping import LEASE_S, Mapped, NotMapped
from legion_client.machine.upnp_gateway import PORTS, Gateway
from tests.client.machine import played_router

ENGINE = Endpoint(host="192.168.1.5", port=7000)
ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 0001A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0
eth0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0
"""
WITHOUT_THE_EXTRA = """
import runpy, sys
sys.modules["miniupnpc"] = None
runpy.run_module("legion_client.machine.upnp_gateway", run_name="__main__")
"""


def test_the_default_gateway(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(ROUTES)
    assert natpmp.default_gateway(tmp_path / "route") == "192.168.1.1"
    (tmp_path / "none").write_text(ROUTES.rsplit("\n", 2)[0])
    assert natpmp.default_gateway(tmp_path / "none") is None
    assert natpmp.default_gateway(tmp_path / "elsewhere") is None


async def test_natpmp_opens_and_closes_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    async with played_router.natpmp(deaf_for=1) as router:  # the first packet is lost
        monkeypatch.setattr(natpmp, "PORT", router.port)
        mapped = await natpmp.open_port("127.0.0.1", "192.168.1.5", 7000)
        assert (mapped.external_host, mapped.external_port) == ("203.0.113.7", 7001)
        assert router.mappings == {7000: LEASE_S}
        await natpmp.close_port("127.0.0.1", 7000)
        assert router.mappings == {}


@pytest.mark.parametrize(("result", "words"), [(2, "it refuses"), (4, "it has no room"), (99, "result 99")])
async def test_natpmp_refused(monkeypatch: pytest.MonkeyPatch, result: int, words: str) -> None:
    async with played_router.natpmp(result=result) as router:
        monkeypatch.setattr(natpmp, "PORT", router.port)
        with pytest.raises(NotMapped, match=words):
            await natpmp.open_port("127.0.0.1", "192.168.1.5", 7000)


async def test_natpmp_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natpmp, "FIRST_WAIT_S", 0.01)
    async with played_router.natpmp(deaf_for=100) as router:
        monkeypatch.setattr(natpmp, "PORT", router.port)
        with pytest.raises(NotMapped, match="does not speak NAT-PMP"):
            await natpmp.open_port("127.0.0.1", "192.168.1.5", 7000)


def test_upnp_opens_renews_and_closes_a_port() -> None:
    with played_router.upnp() as router:
        gateway = Gateway(router.url)
        mapped = gateway.open_port("192.168.1.5", 7000)
        assert (mapped.external_host, mapped.external_port) == (played_router.ADDRESS, 7000)
        assert router.mappings == {7000: ("192.168.1.5", 7000, LEASE_S)}
        assert gateway.open_port("192.168.1.5", 7000, 7000).external_port == 7000
        gateway.close_port(7000)
        assert router.mappings == {}
        with pytest.raises(NotMapped, match="keeps the port open"):
            gateway.close_port(7000)


def test_upnp_takes_another_port_where_one_is_taken() -> None:
    with played_router.upnp() as router:
        router.taken = {7000}
        mapped = Gateway(router.url).open_port("192.168.1.5", 7000)
        assert mapped.external_port in PORTS
        assert router.mappings[mapped.external_port][1] == 7000


def test_upnp_of_a_router_that_knows_only_lasting_mappings() -> None:
    with played_router.upnp() as router:
        router.permanent_only = True
        Gateway(router.url).open_port("192.168.1.5", 7000)
        assert router.mappings == {7000: ("192.168.1.5", 7000, 0)}


def test_what_is_no_router() -> None:
    with pytest.raises(NotMapped, match="no router opens ports by UPnP"):
        Gateway("http://127.0.0.1:1/root.xml")


async def test_a_conversation_is_a_process_of_its_own() -> None:
    with played_router.upnp() as router:
        mapped = await upnp.open_port("192.168.1.5", 7000, at=router.url)
        assert mapped == Mapped("UPnP", played_router.ADDRESS, 7000, "192.168.1.5", 7000)
        assert router.mappings == {7000: ("192.168.1.5", 7000, LEASE_S)}
        await upnp.close_port(7000, at=router.url)
        assert router.mappings == {}
        with pytest.raises(NotMapped, match="keeps the port open"):
            await upnp.close_port(7000, at=router.url)


@pytest.mark.parametrize(
    ("action", "code", "words"),
    [
        ("AddPortMapping", 606, "the router opens no port by UPnP"),  # it is not authorised
        ("AddPortMapping", 501, "the router opens no port by UPnP"),
        ("GetExternalIPAddress", 501, "the router does not know its address"),
    ],
)
async def test_upnp_refused(action: str, code: int, words: str) -> None:
    with played_router.upnp() as router:
        router.refuses = {action: code}
        with pytest.raises(NotMapped, match=words):
            await upnp.open_port("192.168.1.5", 7000, at=router.url)
        assert router.mappings == {}


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("198.18.0.7", "none of the internet"),
        ("192.168.0.2", "another router is before it"),
        ("100.64.3.4", "the provider shares one address"),
        ("8.8.8.8", "UPnP opened port 7000 of 8.8.8.8"),
        ("\x1b[31mrouter", "which does not say its address"),
        ("", "which does not say its address"),
    ],
)
async def test_what_a_router_says_of_its_address(monkeypatch: pytest.MonkeyPatch, address: str, says: str) -> None:
    """Whether others come in by it, the server finds out: it dials."""
    monkeypatch.setattr(natpmp, "default_gateway", lambda: None)
    with played_router.upnp() as router:
        router.address = address
        asked = upnp.open_port
        monkeypatch.setattr(upnp, "open_port", lambda host, port: asked(host, port, at=router.url))
        mapping = PortMapping()
        assert await mapping.open(ENGINE) == 7000
        assert says in mapping.state
        assert "\x1b" not in mapping.state


ENDLESS = {
    "huge": lambda: itertools.repeat(b" " * 2**20, 4096),  # 4 GiB, as fast as it is taken
    "slow": lambda: iter(
        lambda: (threading.Event().wait(0.2), b" ")[1], None
    ),  # never so slow that the library gives up
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_a_router_that_talks_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(upnp, "CONVERSATION_S", 3.0)
    with played_router.upnp() as router:
        router.padding = ENDLESS[kind]()
        began = time.monotonic()
        with pytest.raises(NotMapped):
            await upnp.open_port("192.168.1.5", 7000, at=router.url)
        assert time.monotonic() - began < 20
        assert router.mappings == {}


async def test_the_agent_renews_and_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natpmp, "default_gateway", lambda: "127.0.0.1")
    monkeypatch.setattr(port_mapping, "RENEW_S", 0.01)
    async with played_router.natpmp(address="100.64.3.4") as router:
        monkeypatch.setattr(natpmp, "PORT", router.port)
        mapping = PortMapping()
        keeping = asyncio.ensure_future(mapping.keep())
        assert await mapping.open(ENGINE) == 7001
        assert "the provider shares one address" in mapping.state
        router.mappings.clear()
        async with asyncio.timeout(10):
            while not router.mappings:
                await asyncio.to_thread(lambda: None)
        assert await mapping.open(ENGINE) == 7001  # the same engine: nothing is asked anew
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        assert router.mappings == {}
        assert mapping.state == "closed"


async def test_the_agent_says_what_every_way_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natpmp, "default_gateway", lambda: None)
    monkeypatch.setattr(upnp, "COMMAND", (sys.executable, "-c", WITHOUT_THE_EXTRA))
    mapping = PortMapping()
    assert await mapping.open(ENGINE) is None
    assert mapping.state.startswith("the router's address is not known here; UPnP needs the 'upnp' extra")
