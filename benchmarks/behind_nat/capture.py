"""What tcpdump has seen, as streams: who spoke to whom, for which name, and whether all of it is TLS records."""

import contextlib
import signal
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from behind_nat.network import WAN, Place
from legion_server.relay.hello import Named, parse

RECORD_TYPES = (20, 21, 22, 23)  # change cipher spec, alert, handshake, application data
MOST_RECORD = 16_384 + 256


class Way(NamedTuple):
    """One direction of a connection."""

    source: str
    source_port: int
    target: str
    target_port: int

    @property
    def back(self) -> "Way":
        return Way(self.target, self.target_port, self.source, self.source_port)


@dataclass(slots=True)
class Stream:
    """`start`: the sequence number of its first byte."""

    start: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)  # by offset

    @property
    def data(self) -> bytes:
        """Up to the first gap."""
        found = b""
        for offset, piece in sorted(self.pieces.items()):
            if offset > len(found):
                break
            found += piece[len(found) - offset :]
        return found

    @property
    def is_whole(self) -> bool:
        return len(self.data) == max((offset + len(piece) for offset, piece in self.pieces.items()), default=0)


@contextlib.contextmanager
def capturing(place: Place, file: Path) -> Iterator[None]:
    """Every TCP packet at the place's device, whole."""
    command = ["tcpdump", "-i", WAN, "-s", "0", "-B", "65536", "--immediate-mode", "-U", "-w", str(file), "tcp"]
    tcpdump = subprocess.Popen(place.command(command), stderr=subprocess.PIPE, text=True)
    assert tcpdump.stderr is not None
    while "listening on" not in tcpdump.stderr.readline():
        pass
    try:
        yield
    finally:
        tcpdump.send_signal(signal.SIGINT)
        tcpdump.communicate()


def streams(file: Path) -> dict[Way, Stream]:
    """Both directions of every connection whose beginning was seen."""
    found: dict[Way, Stream] = {}
    for packet in _packets(file.read_bytes()):
        if len(packet) < 40 or packet[12:14] != b"\x08\x00" or packet[14 + 9] != 6:
            continue
        _take(found, packet[14:])
    return found


def _packets(capture: bytes) -> Iterator[bytes]:
    """Ethernet frames of a pcap file."""
    assert struct.unpack_from("<I", capture)[0] == 0xA1B2C3D4
    at = 24
    while at + 16 <= len(capture):
        size = struct.unpack_from("<I", capture, at + 8)[0]
        yield capture[at + 16 : at + 16 + size]
        at += 16 + size


def _take(found: dict[Way, Stream], ip: bytes) -> None:
    header = (ip[0] & 15) * 4
    tcp = ip[header : int.from_bytes(ip[2:4])]
    source_port, target_port, number = struct.unpack_from("!HHI", tcp)
    way = Way(_dotted(ip[12:16]), source_port, _dotted(ip[16:20]), target_port)
    if tcp[13] & 2:  # SYN
        found[way] = Stream((number + 1) & 0xFFFFFFFF)
    payload = tcp[(tcp[12] >> 4) * 4 :]
    stream = found.get(way)
    if stream is None or not payload:
        return
    offset = (number - stream.start) & 0xFFFFFFFF
    if offset < 2**31 and len(payload) > len(stream.pieces.get(offset, b"")):
        stream.pieces[offset] = payload


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))


def is_tls(data: bytes) -> bool:
    """Whether it is TLS records and nothing else; the last one may be cut off."""
    at = 0
    while at < len(data):
        header = data[at : at + 5]
        if header[0] not in RECORD_TYPES or (len(header) > 1 and header[1] != 3):
            return False
        if len(header) < 5:
            return True
        size = int.from_bytes(header[3:])
        if not 0 < size <= MOST_RECORD:
            return False
        at += 5 + size
    return True


def name_of(data: bytes) -> str:
    """Whom a stream's ClientHello asks for; empty: it has none."""
    hello = parse(data)
    return hello.name if isinstance(hello, Named) else ""
