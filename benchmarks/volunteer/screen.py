"""A screen of our own (Xvfb, icewm with its tray, a session bus), what is seen on it, and a hand on mouse and keys.

What is seen is read from the X server's pixels, and clicks go through its XTEST extension: the program under test does
not know that it is watched. icewm's bar shows nothing but windows and the tray, so nothing else changes its pixels.
"""

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, POINTER, Structure, c_char_p, c_int, c_uint, c_ulong, c_void_p
from pathlib import Path
from typing import NamedTuple

import numpy as np

from volunteer.processes import running

SIZE = (1200, 800)
BAR_PX = 40  # at the bottom of the screen, more than icewm's bar is high
Z_PIXMAP, ALL_PLANES = 2, 2**64 - 1
SETTLED_S = 20.0
ICEWM = "\n".join(
    f"TaskBarShow{part}=0"
    for part in (
        "Clock",
        "APMStatus",
        "CPUStatus",
        "MEMStatus",
        "NetStatus",
        "MailboxStatus",
        "StartMenu",
        "Workspaces",
    )
)
LETTERS_PX = 13  # of icewm's bar, which does not follow a scale by itself


class _Image(Structure):
    """XImage of Xlib.h, as far as it is used."""

    _fields_ = (
        ("width", c_int),
        ("height", c_int),
        ("xoffset", c_int),
        ("format", c_int),
        ("data", c_void_p),
        ("byte_order", c_int),
        ("bitmap_unit", c_int),
        ("bitmap_bit_order", c_int),
        ("bitmap_pad", c_int),
        ("depth", c_int),
        ("bytes_per_line", c_int),
    )


class Box(NamedTuple):
    """Pixels of the screen, from the upper left."""

    x: int
    y: int
    width: int
    height: int


BAR = Box(0, SIZE[1] - BAR_PX, SIZE[0], BAR_PX)
MIDDLE = Box(SIZE[0] // 4, SIZE[1] // 4, SIZE[0] // 2, SIZE[1] // 2)
ALL = Box(0, 0, *SIZE)


class Screen:
    """A connection to a display; `environment` is for programs that shall be seen on it."""

    def __init__(self, environment: dict[str, str], scale: int = 1) -> None:
        self.environment = environment
        self.whole = Box(*(side * scale for side in ALL))
        self.bar = Box(*(side * scale for side in BAR))
        self._x, self._test = CDLL("libX11.so.6"), CDLL("libXtst.so.6")
        self._x.XOpenDisplay.restype = c_void_p
        self._x.XOpenDisplay.argtypes = (c_char_p,)
        self._x.XDefaultRootWindow.restype = c_ulong
        self._x.XDefaultRootWindow.argtypes = (c_void_p,)
        self._x.XGetImage.restype = POINTER(_Image)
        self._x.XGetImage.argtypes = (c_void_p, c_ulong, c_int, c_int, c_uint, c_uint, c_ulong, c_int)
        self._x.XDestroyImage.argtypes = (POINTER(_Image),)
        self._x.XFlush.argtypes = (c_void_p,)
        self._x.XStringToKeysym.restype = c_ulong
        self._x.XKeysymToKeycode.argtypes = (c_void_p, c_ulong)
        self._test.XTestFakeMotionEvent.argtypes = (c_void_p, c_int, c_int, c_int, c_ulong)
        self._test.XTestFakeButtonEvent.argtypes = (c_void_p, c_uint, c_int, c_ulong)
        self._test.XTestFakeKeyEvent.argtypes = (c_void_p, c_uint, c_int, c_ulong)
        self._display = self._x.XOpenDisplay(environment["DISPLAY"].encode())
        if not self._display:
            raise RuntimeError(f"no display {environment['DISPLAY']}")
        self._root = self._x.XDefaultRootWindow(self._display)

    def pixels(self, box: Box) -> np.ndarray:
        """Of the colours 0xRRGGBB, [height, width]."""
        image = self._x.XGetImage(self._display, self._root, *box, ALL_PLANES, Z_PIXMAP)
        size_bytes = image.contents.bytes_per_line * box.height
        data = ctypes.string_at(image.contents.data, size_bytes)
        self._x.XDestroyImage(image)
        return np.frombuffer(data, np.uint32).reshape(box.height, -1)[:, : box.width] & 0xFFFFFF

    def count(self, box: Box, color: str) -> int:
        """Pixels of the colour "#rrggbb" in the box."""
        return int((self.pixels(box) == int(color.removeprefix("#"), 16)).sum())

    def move(self, x: int, y: int) -> None:
        self._test.XTestFakeMotionEvent(self._display, -1, x, y, 0)
        self._x.XFlush(self._display)

    def click(self, x: int, y: int, button: int = 1) -> None:
        self.move(x, y)
        for pressed in (1, 0):
            self._test.XTestFakeButtonEvent(self._display, button, pressed, 0)
        self._x.XFlush(self._display)

    def press(self, *keys: str) -> None:
        """All of them together, as "Control_L", "2"."""
        codes = [self._x.XKeysymToKeycode(self._display, self._x.XStringToKeysym(key.encode())) & 0xFF for key in keys]
        for code in codes:
            self._test.XTestFakeKeyEvent(self._display, code, 1, 0)
        for code in reversed(codes):
            self._test.XTestFakeKeyEvent(self._display, code, 0, 0)
        self._x.XFlush(self._display)

    def settled(self) -> None:
        """Waits until the bar is there and nothing moves."""
        end, before, since = time.monotonic() + SETTLED_S, None, time.monotonic()
        while time.monotonic() < end:
            now = self.pixels(self.whole).tobytes()
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > 0.5 and len(np.unique(self.pixels(self.bar))) > 1:
                return
            time.sleep(0.05)
        raise RuntimeError("the screen does not settle")


@contextmanager
def display(home: Path, size: tuple[int, int] = SIZE) -> Iterator[dict[str, str]]:
    """Xvfb and icewm for the time of the block: the environment for programs on it; `home` is the user's folder."""
    with contextlib.ExitStack() as ends:
        read, write = os.pipe()
        width, height = size
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{width}x{height}x24", "-dpi", "96"]
        ends.enter_context(running([*command, "-nolisten", "tcp"], dict(os.environ), pass_fds=(write,)))
        os.close(write)
        with os.fdopen(read) as told:
            number = f":{told.readline().strip()}"
        environment = os.environ | {
            "DISPLAY": number,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "QT_QPA_PLATFORM": "xcb",
            "LC_ALL": "C.UTF-8",
            "DBUS_SESSION_BUS_ADDRESS": "disabled:",
        }
        ends.enter_context(running(["icewm"], environment))
        yield environment


@contextmanager
def screen(home: Path, scale: int = 1) -> Iterator[Screen]:
    """A display and a session bus for the time of the block; `home` is the user's folder."""
    (home / ".icewm").mkdir(parents=True, exist_ok=True)
    (home / ".icewm" / "preferences").write_text(ICEWM + "\n")
    (home / ".icewm" / "prefoverride").write_text(letters(scale))
    bus = f"unix:path={home / 'bus'}"
    with display(home, (SIZE[0] * scale, SIZE[1] * scale)) as environment:
        command = ["dbus-daemon", "--session", "--nofork", "--address", bus]
        environment["DBUS_SESSION_BUS_ADDRESS"] = bus
        environment["QT_SCALE_FACTOR"] = str(scale)
        with running(command, environment):
            made = Screen(environment, scale)
            made.settled()
            yield made


def letters(scale: int) -> str:
    """Not of titles: their bar is a picture, as high as it is."""
    fonts = ("NormalTaskBar", "ActiveTaskBar", "ToolButton")
    return "".join(f'{font}FontNameXft="sans:pixelsize={LETTERS_PX * scale}"\n' for font in fonts)
