"""A router of a test on loopback: NAT-PMP over UDP, and UPnP over HTTP, with the mappings that it was asked for."""

import asyncio
import contextlib
import re
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ADDRESS = "198.51.100.7"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


@dataclass
class NatPmp(asyncio.DatagramProtocol):
    """As RFC 6886 has it."""

    result: int = 0
    deaf_for: int = 0  # packets
    address: str = "203.0.113.7"
    mappings: dict[int, int] = field(default_factory=dict)  # internal port: lease in s
    port: int = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.deaf_for:
            self.deaf_for -= 1
            return
        head = struct.pack("!BBHI", 0, 128 + data[1], self.result, 77)
        if data[1] == 0:
            self._transport.sendto(head + bytes(map(int, self.address.split("."))), addr)
            return
        internal, external, lease_s = struct.unpack("!HHI", data[4:12])
        if lease_s == 0:
            self.mappings.pop(internal, None)
        elif self.result == 0:
            self.mappings[internal] = lease_s
        self._transport.sendto(head + struct.pack("!HHI", internal, external + 1 if external else 0, lease_s), addr)


@contextlib.asynccontextmanager
async def natpmp(**how: object) -> AsyncIterator[NatPmp]:
    router = NatPmp(**how)  # type: ignore[arg-type]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: router, local_addr=("127.0.0.1", 0)
    )
    router.port = transport.get_extra_info("sockname")[1]
    try:
        yield router
    finally:
        transport.close()


class Upnp(ThreadingHTTPServer):
    """An Internet Gateway Device: `taken` are ports of others, `permanent_only` wants leases of 0."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.mappings: dict[int, tuple[str, int, int]] = {}  # external port: host, port, lease in s
        self.taken: set[int] = set()
        self.permanent_only = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}/root.xml"


class _Answering(BaseHTTPRequestHandler):
    server: Upnp

    def do_GET(self) -> None:
        service = (
            f"<service><serviceType>{SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>"
            "<controlURL>/control</controlURL><eventSubURL>/events</eventSubURL><SCPDURL>/scpd.xml</SCPDURL></service>"
        )
        device = f"<serviceList>{service}</serviceList>"
        for kind in ("WANConnectionDevice", "WANDevice", "InternetGatewayDevice"):
            inner = f"<deviceType>urn:schemas-upnp-org:device:{kind}:1</deviceType>{device}"
            device = f"<deviceList><device>{inner}</device></deviceList>"
        inner = device.removeprefix("<deviceList>").removesuffix("</deviceList>")
        self._answer(200, f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{inner}</root>')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = self.headers["SOAPAction"].strip('"').split("#")[1]
        given = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        code, inner = self._act(action, given)
        if code:
            fault = f"<UPnPError><errorCode>{code}</errorCode><errorDescription>no</errorDescription></UPnPError>"
            inner = f"<s:Fault><faultcode>s:Client</faultcode><detail>{fault}</detail></s:Fault>"
        else:
            inner = f'<u:{action}Response xmlns:u="{SERVICE}">{inner}</u:{action}Response>'
        envelope = 's:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        self._answer(500 if code else 200, f"<{envelope}><s:Body>{inner}</s:Body></s:Envelope>")

    def _act(self, action: str, given: dict[str, str]) -> tuple[int, str]:
        """An error's code (0: none), and what the answer holds."""
        external = int(given.get("NewExternalPort", 0))
        if action == "GetExternalIPAddress":
            return 0, f"<NewExternalIPAddress>{ADDRESS}</NewExternalIPAddress>"
        if action == "DeletePortMapping":
            return (0 if self.server.mappings.pop(external, None) else 714), ""
        lease_s = int(given["NewLeaseDuration"])
        if external in self.server.taken:
            return 718, ""
        if self.server.permanent_only and lease_s:
            return 725, ""
        self.server.mappings[external] = given["NewInternalClient"], int(given["NewInternalPort"]), lease_s
        return 0, ""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


@contextlib.contextmanager
def upnp() -> Iterator[Upnp]:
    with Upnp() as router:
        thread = threading.Thread(target=router.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield router
        finally:
            router.shutdown()
            thread.join()
