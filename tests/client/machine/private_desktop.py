"""A D-Bus daemon and an X server with nobody else on them."""

import itertools
import os
import secrets
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Self

CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


LOOKS_A_REQUEST = 100  # a look is answered by the server, a request by a program that is slower


class MessageBus:
    """Knows no service files, so that nothing of this computer is ever started."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.socket = str(folder / "socket")
        self._configuration = folder / "bus.conf"
        self._configuration.write_text(CONFIGURATION.format(socket=self.socket))
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self.socket}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={self._configuration}", "--nofork", "--print-address=1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("unix:")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            Path(self.socket).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Screen:
    """Xvfb on a display that it chose itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cookie = secrets.token_bytes(16)
        self.authority = folder / "authority"
        fields = (socket.gethostname().encode(), b"", b"MIT-MAGIC-COOKIE-1", self.cookie)
        entry = b"".join(struct.pack(">H", len(field)) + field for field in fields)
        self.authority.write_bytes(struct.pack(">H", 256) + entry)
        self.number = ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DISPLAY": f":{self.number}",
            "XAUTHORITY": str(self.authority),
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
        }

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-auth", str(self.authority), "-noreset", "-screen", "0", "640x480x24"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.number = self._process.stdout.readline().strip()
        assert self.number.isdecimal()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


class XClient:
    """A program with windows, and with a hand on the mouse (XTEST)."""

    CREATE_WINDOW, DESTROY_WINDOW, MAP_WINDOW, CHANGE_PROPERTY, DELETE_PROPERTY = 1, 4, 8, 18, 19
    INTERN_ATOM, GET_PROPERTY, SEND_EVENT, GET_INPUT_FOCUS, QUERY_EXTENSION = 16, 20, 25, 43, 98
    MOTION = 6

    def __init__(self, screen: Screen) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(f"/tmp/.X11-unix/X{screen.number}")
        name = b"MIT-MAGIC-COOKIE-1"
        self._socket.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), 16) + name + bytes(2) + screen.cookie)
        status, words = struct.unpack("<B5xH", self._receive(8))
        assert status == 1
        body = self._receive(4 * words)
        self._next_id = struct.unpack_from("<I", body, 4)[0]
        vendor = struct.unpack_from("<H", body, 16)[0]
        self.root = struct.unpack_from("<I", body, 32 + vendor + -vendor % 4 + 8 * body[21])[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def sees_window_manager(self) -> bool:
        return bool(self._get(self.root, "_NET_SUPPORTING_WM_CHECK"))

    def meet_window_manager(self, is_alive: Callable[[], bool]) -> None:
        """Waits until it takes requests: it forgets those, and windows, that come before all of it has started."""
        window = self._new_window()
        for look in itertools.count():
            if self._get(window, "_NET_FRAME_EXTENTS"):
                break
            assert is_alive()
            if self.sees_window_manager() and look % LOOKS_A_REQUEST == 0:
                self._ask_manager(window, "_NET_REQUEST_FRAME_EXTENTS")
        self.close_window(window)

    def open_window(self, *states: str) -> int:
        """With these _NET_WM_STATEs from the start, as a player that was told to begin in full screen."""
        window = self._new_window()
        self._set(window, "_NET_WM_STATE", 4, *(self._atom(state) for state in states))
        self._send(struct.pack("<BxHI", self.MAP_WINDOW, 2, window))
        self._done()
        return window

    def bring_to_front(self, window: int) -> None:
        """Asks the window manager, as a taskbar does."""
        self._ask_manager(window, "_NET_ACTIVE_WINDOW", 2)

    def active(self) -> int | None:
        """The window that has the keyboard as the window manager tells it: 0 for none, None where nobody tells."""
        return next(iter(self._get(self.root, "_NET_ACTIVE_WINDOW")), None)

    def close_window(self, window: int) -> None:
        self._send(struct.pack("<BxHI", self.DESTROY_WINDOW, 2, window))
        self._done()

    def set_active(self, window: int) -> None:
        """As a window manager does."""
        self._set(self.root, "_NET_ACTIVE_WINDOW", 33, window)
        self._done()

    def forget_active(self) -> None:
        self._send(struct.pack("<BxHII", self.DELETE_PROPERTY, 3, self.root, self._atom("_NET_ACTIVE_WINDOW")))
        self._done()

    def move_mouse(self) -> None:
        name = b"XTEST"
        reply = self._ask(struct.pack("<BxHHxx", self.QUERY_EXTENSION, 4, len(name)) + name + bytes(3))
        assert reply[8], "this X server has no XTEST"
        self._send(struct.pack("<BBHBBxxII8xhh8x", reply[9], 2, 9, self.MOTION, 0, 0, 0, 50, 50))
        self._done()

    def _new_window(self) -> int:
        self._next_id += 1
        window: int = self._next_id
        place = (9, 9, 99, 99, 0, 1)
        self._send(struct.pack("<BBHIIhhHHHHII", self.CREATE_WINDOW, 0, 8, window, self.root, *place, 0, 0))
        return window

    def _ask_manager(self, window: int, name: str, *values: int) -> None:
        padded = (*values, 0, 0, 0, 0, 0)[:5]
        event = struct.pack("<BBHIIIIIII", 33, 32, 0, window, self._atom(name), *padded)
        self._send(struct.pack("<BBHII", self.SEND_EVENT, 0, 11, self.root, 0x180000) + event)
        self._done()

    def _get(self, window: int, name: str) -> tuple[int, ...]:
        """The 32-bit numbers of a property, four at most; none where it is missing."""
        reply = self._ask(struct.pack("<BBHIIIII", self.GET_PROPERTY, 0, 6, window, self._atom(name), 0, 0, 4))
        if reply[1] != 32:
            return ()
        (count,) = struct.unpack_from("<I", reply, 16)
        return struct.unpack_from(f"<{count}I", reply, 32)

    def _set(self, window: int, name: str, kind: int, *values: int) -> None:
        count = len(values)
        head = (self.CHANGE_PROPERTY, 0, 6 + count, window, self._atom(name), kind, 32, count)
        self._send(struct.pack(f"<BBHIIIB3xI{count}I", *head, *values))

    def _atom(self, name: str) -> int:
        words = 2 + (len(name) + 3) // 4
        padding = bytes(-len(name) % 4)
        reply = self._ask(struct.pack("<BBHHxx", self.INTERN_ATOM, 0, words, len(name)) + name.encode() + padding)
        return int(struct.unpack_from("<I", reply, 8)[0])

    def _done(self) -> None:
        """All that was sent before has been worked off when this one is answered."""
        self._ask(struct.pack("<BxH", self.GET_INPUT_FOCUS, 1))

    def _send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def _ask(self, request: bytes) -> bytes:
        self._send(request)
        while True:
            head = self._receive(32)
            assert head[0] != 0, f"X error {head[1]}"
            if head[0] == 1:
                return head + self._receive(4 * struct.unpack_from("<I", head, 4)[0])

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the X server hung up"
            data += more
        return data


def read_to_end(accepted: socket.socket) -> None:
    """Returns once the other side has closed its socket; fails if it does not."""
    with accepted:
        accepted.settimeout(10)
        while accepted.recv(100):
            pass
