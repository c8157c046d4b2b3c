"""Whether Qt can open a window here, asked before Qt is: it ends a program that it cannot show with SIGABRT.

Linux only; elsewhere the display is part of the system.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PySide6.QtCore import QCoreApplication

from legion.errors import NoDisplay

XCB, WAYLAND = "xcb", "wayland"
# What the wheels of PySide6 leave to the system, and the Debian package that has it.
PACKAGES = {
    XCB: {
        "libxcb-cursor.so.0": "libxcb-cursor0",
        "libxcb-icccm.so.4": "libxcb-icccm4",
        "libxcb-keysyms.so.1": "libxcb-keysyms1",
        "libxcb-image.so.0": "libxcb-image0",
        "libxcb-render-util.so.0": "libxcb-render-util0",
        "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    },
    WAYLAND: {"libwayland-client.so.0": "libwayland-client0", "libwayland-cursor.so.0": "libwayland-cursor0"},
}
INSTALL = "On Debian and Ubuntu: 'apt install {packages}'. Or run 'legion-client --no-gui', which needs no window."


def require_display() -> None:
    """NoDisplay when no platform plugin that Qt would try can be loaded and reaches its display."""
    if sys.platform != "linux":
        return
    folders = [Path(folder) / "platforms" for folder in QCoreApplication.libraryPaths()]
    if chosen := os.environ.get("QT_QPA_PLATFORM_PLUGIN_PATH"):
        folders.insert(0, Path(chosen))
    troubles: list[str] = []
    for name in platforms(os.environ):
        trouble = trouble_of(name, folders)
        if trouble is None:
            return
        troubles.append(trouble)
    packages = [package for name in platforms(os.environ) for package in packages_of(name, trouble_with)]
    hint = INSTALL.format(packages=" ".join(packages)) if packages else None
    raise NoDisplay(f"Qt cannot open a window: {'; '.join(troubles)}", hint=hint)


def platforms(environment: Mapping[str, str]) -> list[str]:
    """The plugins that Qt tries, in its order: those chosen, or X11's, behind Wayland's where there is that."""
    chosen = [part.partition(":")[0] for part in environment.get("QT_QPA_PLATFORM", "").split(";")]
    wayland = environment.get("XDG_SESSION_TYPE") == WAYLAND or environment.get("WAYLAND_DISPLAY")
    return [name for name in chosen if name] or ([WAYLAND, XCB] if wayland else [XCB])


def trouble_of(name: str, folders: Sequence[Path]) -> str | None:
    """Why the plugin cannot show anything; None also for those that need no display, as `offscreen`."""
    if name not in PACKAGES:
        return None
    file = next((path for folder in folders if (path := folder / f"libq{name}.so").exists()), None)
    if file is None:
        return f"there is no libq{name}.so in {' or '.join(map(str, folders))}"
    if (trouble := trouble_with(str(file))) is not None:
        return trouble
    if _x_answers() if name == XCB else _wayland_answers():
        return None
    variable = "DISPLAY" if name == XCB else "WAYLAND_DISPLAY"
    display = os.environ.get(variable)
    return f"{variable} is {display!r}, and nothing answers there" if display else f"{variable} is not set"


def packages_of(name: str, trouble: Callable[[str], str | None]) -> list[str]:
    """Those of the libraries that cannot be loaded."""
    return [package for library, package in PACKAGES.get(name, {}).items() if trouble(library) is not None]


def trouble_with(library: str) -> str | None:
    """The loader's words; None for a library that is now loaded, as Qt would do a moment later."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return None


def _x_answers() -> bool:
    xcb = ctypes.CDLL("libxcb.so.1")
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    answers = bool(xcb.xcb_connection_has_error(connection) == 0)
    xcb.xcb_disconnect(connection)
    return answers


def _wayland_answers() -> bool:
    wayland = ctypes.CDLL("libwayland-client.so.0")
    wayland.wl_display_connect.restype = ctypes.c_void_p
    connection = wayland.wl_display_connect(None)
    if connection is None:
        return False
    wayland.wl_display_disconnect(ctypes.c_void_p(connection))
    return True
