"""NAT-PMP (RFC 6886): a router opens a port when asked by a packet of twelve bytes."""

import asyncio
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

from legion_client.machine.mapping import LEASE_S, Mapped, NotMapped

PORT = 5351
FIRST_WAIT_S, TRIES = 0.25, 4  # doubled with every try (RFC 6886, 3.1, which has nine: there the other way is waiting)
ADDRESS, MAP_TCP, ANSWER = 0, 2, 128
RESULTS = {1: "it speaks another version", 2: "it refuses", 3: "it has no network", 4: "it has no room", 5: "not TCP"}
ROUTES = Path("/proc/net/route")
RTF_GATEWAY = 2


class _Exchange(asyncio.DatagramProtocol):
    """One request's answer."""

    def __init__(self, operation: int) -> None:
        self._operation = operation
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) >= 8 and data[0] == 0 and data[1] == ANSWER + self._operation and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(NotMapped(f"the router does not speak NAT-PMP ({exc})"))


async def open_port(gateway: str, host: str, port: int, lease_s: int = LEASE_S) -> Mapped:
    """A mapping for `lease_s`, made or renewed. NotMapped."""
    found = await _ask(gateway, ADDRESS, bytes([0, ADDRESS]), 12)
    external = str(IPv4Address(found[8:12]))
    answer = await _ask(gateway, MAP_TCP, struct.pack("!BBHHHI", 0, MAP_TCP, 0, port, port, lease_s), 16)
    internal_port, external_port = struct.unpack("!HH", answer[8:12])
    if internal_port != port:
        raise NotMapped("the router answers for another port")
    return Mapped("NAT-PMP", external, external_port, host, port)


async def close_port(gateway: str, port: int) -> None:
    """NotMapped where the router does not say that it is closed."""
    await _ask(gateway, MAP_TCP, struct.pack("!BBHHHI", 0, MAP_TCP, 0, port, 0, 0), 16)


async def _ask(gateway: str, operation: int, request: bytes, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    try:
        transport, exchange = await loop.create_datagram_endpoint(
            lambda: _Exchange(operation), remote_addr=(gateway, PORT), family=socket.AF_INET
        )
    except OSError as error:
        raise NotMapped(f"the router at {gateway} cannot be asked: {error.strerror}") from error
    try:
        for attempt in range(TRIES):
            transport.sendto(request)
            done, _ = await asyncio.wait([exchange.answer], timeout=FIRST_WAIT_S * 2**attempt)
            if done:
                return _checked(exchange.answer.result(), size)
    finally:
        exchange.answer.cancel()
        transport.close()
    raise NotMapped(f"the router at {gateway} does not speak NAT-PMP")


def _checked(answer: bytes, size: int) -> bytes:
    result = int.from_bytes(answer[2:4])
    if result:
        raise NotMapped(f"the router opens no port by NAT-PMP: {RESULTS.get(result, f'result {result}')}")
    if len(answer) < size:
        raise NotMapped("the router's answer is too short")
    return answer


def default_gateway(routes: Path = ROUTES) -> str | None:
    """Of IPv4; None where there is none, or where the system does not show it in a file."""
    try:
        lines = routes.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) > 3 and int(fields[1], 16) == 0 and int(fields[3], 16) & RTF_GATEWAY:
            return str(IPv4Address(int(fields[2], 16).to_bytes(4, "little")))
    return None
