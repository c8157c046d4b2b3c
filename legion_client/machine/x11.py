"""The three questions we have for an X server, in the X11 protocol itself.

Not by libX11 and libXss: Xlib ends the whole program when the server goes away or a window vanishes between two calls,
its handlers for that are shared with Qt in the same process, and a connection that hangs could only be given up with a
thread. X Window System Protocol, X11R6.8; MIT-SCREEN-SAVER 1.1; Extended Window Manager Hints 1.5.
"""

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from legion.errors import Unavailable

INTERN_ATOM, GET_PROPERTY, QUERY_EXTENSION = 16, 20, 98
SCREEN_SAVER_QUERY_INFO = 1
ATOMS = ("_NET_ACTIVE_WINDOW", "_NET_WM_STATE", "_NET_WM_STATE_FULLSCREEN")
MOST_STATES = 32
COOKIE = b"MIT-MAGIC-COOKIE-1"
LOCAL, ANY_HOST = 256, 65535


def display_number(environment: Mapping[str, str]) -> str | None:
    """Of a display on this computer; None without any, and for one across the network: its user sits elsewhere."""
    match = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", environment.get("DISPLAY", ""))
    return match[1] if match else None


def under_wayland(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("WAYLAND_DISPLAY")) or environment.get("XDG_SESSION_TYPE") == "wayland"


def cookie(authority: bytes, number: str, host: str) -> bytes:
    """The entry of an authority file (Xau(3)) for a display of this host; empty if there is none."""
    offset, found = 0, b""
    while offset + 2 <= len(authority):
        (family,) = struct.unpack_from(">H", authority, offset)
        offset += 2
        fields = []
        for _ in range(4):
            (size,) = struct.unpack_from(">H", authority, offset)
            fields.append(authority[offset + 2 : offset + 2 + size])
            offset += 2 + size
        address, display, name, data = fields
        ours = family == ANY_HOST or (family == LOCAL and address == host.encode())
        if name == COOKIE and ours and display in (number.encode(), b""):
            found = data
    return found


class Display:
    """The X server of $DISPLAY, connected when first asked. Each caller sets its own time limit."""

    def __init__(self, environment: Mapping[str, str] = os.environ, sockets: Path = Path("/tmp/.X11-unix")) -> None:
        self._environment = environment
        self._sockets = sockets
        self._asking = asyncio.Lock()
        self._link: _Link | None = None

    async def idle_s(self) -> float | None:
        """Since the last key or pointer movement; None without a display, or under Wayland."""
        if under_wayland(self._environment):
            return None
        async with self._asking:
            link = await self._linked()
            if link is None or link.is_xwayland or link.screen_saver is None:
                return None
            query = struct.pack("<BBHI", link.screen_saver, SCREEN_SAVER_QUERY_INFO, 2, link.root)
            (reply,) = await self._ask(link, [query])
            return None if reply is None else int(struct.unpack_from("<I", reply, 16)[0]) / 1000.0

    async def full_screen(self) -> bool | None:
        """Whether the active window covers its screen; None if there is no window manager that tells.

        Under Wayland, True is to be trusted (most games are X11 programs) and anything else is unknown.
        """
        async with self._asking:
            link = await self._linked()
            if link is None:
                return None
            covered = await self._active_window_covers(link)
            return covered or (None if link.is_xwayland or under_wayland(self._environment) else covered)

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.writer.close()

    async def _active_window_covers(self, link: "_Link") -> bool | None:
        active, state, full_screen = link.atoms
        (reply,) = await self._ask(link, [_get_property(link.root, active, 1)])
        values = _values(reply)
        if not values:
            return None
        if values[0] == 0:
            return False
        (reply,) = await self._ask(link, [_get_property(values[0], state, MOST_STATES)])
        return full_screen in _values(reply)

    async def _linked(self) -> "_Link | None":
        number = display_number(self._environment)
        if self._link is None and number is not None:
            self._link = await _open(self._sockets / f"X{number}", self._cookie(number))
        return self._link

    async def _ask(self, link: "_Link", requests: Sequence[bytes]) -> list[bytes | None]:
        async with contextlib.AsyncExitStack() as unless_answered:
            # If we are cut off, what comes later would be taken for the next answer.
            unless_answered.push_async_callback(self.close)
            replies = await link.ask(requests)
            unless_answered.pop_all()
        return replies

    def _cookie(self, number: str) -> bytes:
        file = self._environment.get("XAUTHORITY") or str(Path(self._environment.get("HOME", "/")) / ".Xauthority")
        try:
            return cookie(Path(file).read_bytes(), number, socket.gethostname())
        except (OSError, struct.error):
            return b""  # many servers let their user in without


@dataclass(slots=True)
class _Link:
    """A connection that has been set up, with what is asked only once."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    root: int
    screen_saver: int | None = None  # its major opcode
    is_xwayland: bool = False
    atoms: tuple[int, ...] = ()

    async def ask(self, requests: Sequence[bytes]) -> list[bytes | None]:
        """A reply for each request, in order; None where the server answers with an error, as for a closed window."""
        self.writer.write(b"".join(requests))
        replies: list[bytes | None] = []
        while len(replies) < len(requests):
            head = await self.reader.readexactly(32)
            if head[0] == 0:
                replies.append(None)
            elif head[0] == 1:
                (words,) = struct.unpack_from("<I", head, 4)
                replies.append(head + await self.reader.readexactly(4 * words))
        return replies


async def _open(path: Path, secret: bytes) -> _Link | None:
    """None if no server listens there. The abstract socket is tried too: a sandbox may hide the folder."""
    for address in (f"\0{path}", str(path)):
        try:
            reader, writer = await asyncio.open_unix_connection(address)
        except (FileNotFoundError, ConnectionRefusedError):
            continue
        with contextlib.ExitStack() as unless_done:
            unless_done.callback(writer.close)
            link = await _set_up(reader, writer, secret)
            unless_done.pop_all()
        return link
    return None


async def _set_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes) -> _Link:
    name = COOKIE if secret else b""
    writer.write(struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(secret)) + _padded(name) + _padded(secret))
    status, words = struct.unpack("<B5xH", await reader.readexactly(8))
    body = await reader.readexactly(4 * words)
    if status != 1:
        reason = body.split(b"\0")[0].decode(errors="replace").strip()
        raise Unavailable(f"the X server does not let us in: {reason or 'it wants another way to log in'}")
    link = _Link(reader, writer, root=_root(body))
    extensions = [_query_extension(extension) for extension in (b"MIT-SCREEN-SAVER", b"XWAYLAND")]
    saver, xwayland, *atoms = await link.ask(extensions + [_intern_atom(atom.encode()) for atom in ATOMS])
    link.screen_saver = saver[9] if saver and saver[8] else None
    link.is_xwayland = bool(xwayland and xwayland[8])
    link.atoms = tuple(int(struct.unpack_from("<I", reply, 8)[0]) if reply else 0 for reply in atoms)
    return link


def _root(body: bytes) -> int:
    """The root window of the first screen, behind the vendor's name and the pixel formats."""
    (vendor_bytes,) = struct.unpack_from("<H", body, 16)
    return int(struct.unpack_from("<I", body, 32 + len(_padded(bytes(vendor_bytes))) + 8 * body[21])[0])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _query_extension(name: bytes) -> bytes:
    return struct.pack("<BxHHxx", QUERY_EXTENSION, 2 + len(_padded(name)) // 4, len(name)) + _padded(name)


def _intern_atom(name: bytes) -> bytes:
    return struct.pack("<BBHHxx", INTERN_ATOM, 0, 2 + len(_padded(name)) // 4, len(name)) + _padded(name)


def _get_property(window: int, name: int, most: int) -> bytes:
    return struct.pack("<BBHIIIII", GET_PROPERTY, 0, 6, window, name, 0, 0, most)


def _values(reply: bytes | None) -> tuple[int, ...]:
    """The 32-bit numbers of a property; none if it is missing or of another format."""
    if reply is None or reply[1] != 32:
        return ()
    (count,) = struct.unpack_from("<I", reply, 16)
    return struct.unpack_from(f"<{count}I", reply, 32)
