"""A router of a test on loopback: NAT-PMP over UDP, and UPnP over HTTP, with the mappings that it was asked for.

Its discovery (SSDP) has a port that is the same everywhere: it is answered in a network of the test's own only.
"""

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ADDRESS = "198.51.100.7"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SSDP = ("239.255.255.250", 1900)


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
    """An Internet Gateway Device: `taken` are ports of others, `permanent_only` wants leases of 0.

    `refuses`: error codes by action. `padding`: comes before its description, piece by piece.
    """

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Answering)
        self.address = ADDRESS
        self.refuses: dict[str, int] = {}
        self.padding: Iterable[bytes] = ()
        self.searches: list[str] = []
        self.mappings: dict[int, tuple[str, int, int]] = {}  # external port: host, port, lease in s
        self.taken: set[int] = set()
        self.permanent_only = False
        self.url = f"http://{host}:{self.server_address[1]}/root.xml"

    def answer_searches(self) -> None:
        """SSDP, in a thread that ends with the program."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(SSDP)
        host = socket.inet_aton(str(self.server_address[0]))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(SSDP[0]) + host)
        threading.Thread(target=self._answer_searches, args=(listener,), daemon=True).start()

    def _answer_searches(self, listener: socket.socket) -> None:
        while True:
            data, sender = listener.recvfrom(2048)
            wanted = re.search(r"^ST: ?(\S+)", data.decode(), re.MULTILINE | re.IGNORECASE)
            if not data.startswith(b"M-SEARCH") or wanted is None or wanted[1] != DEVICE:
                continue
            self.searches.append(wanted[1])
            lines = ("HTTP/1.1 200 OK", "CACHE-CONTROL: max-age=120", "EXT:", f"ST: {DEVICE}", f"USN: uuid:1::{DEVICE}")
            answer = "\r\n".join((*lines, f"LOCATION: {self.url}", "SERVER: played UPnP/1.1", "", ""))
            listener.sendto(answer.encode(), sender)


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
        text = f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{inner}</root>'
        if not self.server.padding:
            self._answer(200, text)
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked has gone
            for piece in self.server.padding:
                self.wfile.write(piece)
            self.wfile.write(text.encode())

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
        if action in self.server.refuses:
            return self.server.refuses[action], ""
        if action == "GetStatusInfo":
            up = "<NewConnectionStatus>Connected</NewConnectionStatus><NewUptime>77</NewUptime>"
            return 0, up + "<NewLastConnectionError>ERROR_NONE</NewLastConnectionError>"
        if action == "GetExternalIPAddress":
            return 0, f"<NewExternalIPAddress>{self.server.address}</NewExternalIPAddress>"
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
def upnp(host: str = "127.0.0.1") -> Iterator[Upnp]:
    with Upnp(host) as router:
        thread = threading.Thread(target=router.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield router
        finally:
            router.shutdown()
            thread.join()
