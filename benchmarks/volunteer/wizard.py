"""The first run's wizard, gone through as a volunteer does: typed at, clicked on, and nothing of the program's own."""

import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from legion_client.ui.colors import LIGHT
from volunteer.screen import Box, Screen

PAGES = 4
TITLE = "Set up Legion"
SHOWN_S = 30.0
LOOK_S = 0.05
LEAST_PX = 40  # of a button's width; a tick is smaller


class Seen(NamedTuple):
    """The window that has the keyboard, without its frame."""

    title: str
    box: Box


def active(looked_at: Screen) -> Seen | None:
    """None where no window has the keyboard, or while one goes."""
    name = _xdotool(looked_at, "getactivewindow", "getwindowname")
    shell = _xdotool(looked_at, "getactivewindow", "getwindowgeometry", "--shell")
    values = dict(line.split("=", 1) for line in shell.splitlines() if "=" in line)
    if not name or "HEIGHT" not in values:
        return None
    return Seen(name.strip(), Box(*(int(values[side]) for side in ("X", "Y", "WIDTH", "HEIGHT"))))


def opened(looked_at: Screen, wanted: Callable[[Seen], bool]) -> Box:
    """Waits for a window to have the keyboard, and to be drawn; RuntimeError with what has it in its place."""
    end = time.monotonic() + SHOWN_S
    while time.monotonic() < end:
        found = active(looked_at)
        if found is not None and wanted(found) and len(np.unique(looked_at.pixels(found.box))) > 40:
            return found.box
        time.sleep(LOOK_S)
    raise RuntimeError(f"not the wanted window, but {active(looked_at)}")


def wizard(looked_at: Screen) -> Box:
    return opened(looked_at, lambda seen: seen.title == TITLE)


def write(looked_at: Screen, text: str) -> None:
    """Where the keyboard's letters go."""
    _xdotool(looked_at, "type", "--delay", "4", text)


def primary(looked_at: Screen, box: Box, color: str = LIGHT.accent) -> Box:
    """The button at the lower right, that has the theme's accent."""
    below = Box(box.x + box.width // 2, box.y + box.height * 3 // 4, box.width // 2, box.height // 4)
    rows, columns = np.nonzero(looked_at.pixels(below) == int(color.removeprefix("#"), 16))
    if not len(rows) or columns.max() - columns.min() < LEAST_PX:
        raise RuntimeError(f"no button of the colour {color} in {below}")
    x, y = int(columns.min()), int(rows.min())
    return Box(below.x + x, below.y + y, int(columns.max()) - x, int(rows.max()) - y)


def press(looked_at: Screen, button: Box) -> None:
    looked_at.click(button.x + button.width // 2, button.y + button.height // 2)


def turn(looked_at: Screen, color: str = LIGHT.accent) -> None:
    """To the next page, and waits until its number stands at the lower left."""
    box = wizard(looked_at)
    button = primary(looked_at, box, color)
    number = Box(box.x, button.y, box.width // 3, button.height)
    before = looked_at.pixels(number).tobytes()
    press(looked_at, button)
    end = time.monotonic() + SHOWN_S
    while looked_at.pixels(number).tobytes() == before:
        if time.monotonic() > end:
            raise RuntimeError("the wizard does not go on")
        time.sleep(LOOK_S)


def to_last_page(
    looked_at: Screen, invite: str, shown: Callable[[int], None] = lambda page: None, color: str = LIGHT.accent
) -> Box:
    """With the invite typed where the first page asks for it; the button that starts training. `shown`: every page."""
    wizard(looked_at)
    write(looked_at, invite)
    for page in range(1, PAGES):
        shown(page)
        turn(looked_at, color)
    shown(PAGES)
    return primary(looked_at, wizard(looked_at), color)


def _xdotool(looked_at: Screen, *arguments: str) -> str:
    done = subprocess.run(
        ["xdotool", *arguments], env=looked_at.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return done.stdout
