"""Pictures of the desktop app at work: a server on loopback, a real app, a screen with a window manager and a tray.

    python docs/screenshots/take.py            # all, a quarter of an hour (apt: xvfb icewm dbus xdotool)
    python docs/screenshots/take.py --scale 1 --trained-s 20 --out /tmp/pictures

A newcomer's app is photographed with the wizard's pages. Another one joins through them and trains beside a second
computer, without a window. Everything is done by keys, clicks and commands, and read from the screen's pixels.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "shared"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402  after the paths above
from PySide6.QtGui import QImage  # noqa: E402  the same
from volunteer.processes import running  # noqa: E402  the same
from volunteer.screen import Box, Screen, screen  # noqa: E402  the same
from volunteer.server import Server, client, config, reached, server, status  # noqa: E402  the same
from volunteer.wizard import opened, press, to_last_page, write  # noqa: E402  the same

from legion_client.ui.colors import DARK, LIGHT  # noqa: E402  the same

PAGES = ("home", "run", "activity", "graphs", "preferences", "logs")  # Ctrl+1 to Ctrl+6
THEMES = {"light": LIGHT, "dark": DARK}
SHOWN_S = 1.5
DONE_S = 20.0
MOST_COLORS, FLAT_COLORS = 256, 64  # of a palette, and of those the most frequent as they are
CLOSE_BITS = 4  # the lowest bits of a colour's parts, in which two that are hardly apart differ
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
PROGRAM = "blender"  # goes first, and is run for a picture
RUN = config(2, steps=60_000, evaluation={"every_steps": 256, "max_blocks": 16}, rounds={"steps": 64, "grace_s": 2.0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--scale", type=int, choices=(1, 2), action="append", help="1 and 2 by default")
    parser.add_argument("--trained-s", type=float, default=240.0, help="before the first pictures of training")
    parser.add_argument("--keep", type=Path, help="for the servers', apps' and users' files; a temporary folder")
    options = parser.parse_args()
    with contextlib.ExitStack() as ends:
        folder = options.keep or Path(ends.enter_context(tempfile.TemporaryDirectory()))
        run = ends.enter_context(server(folder / "server"))
        run.configure(RUN)
        ends.enter_context(second_computer(folder, run))
        for scale in options.scale or (1, 2):
            with screen(folder / f"user-{scale}", scale) as seen:
                seen.environment["LC_ALL"] = "en_US.UTF-8"  # numbers as people write them
                photographer = Photographer(seen, options.out, scale)
                newcomer(photographer, folder, run)
                volunteer(photographer, folder / "home", run, options.trained_s)


@contextlib.contextmanager
def second_computer(folder: Path, run: Server) -> Iterator[None]:
    home, invite = folder / "second", folder / "invite.txt"
    invite.write_text(run.invite())
    client(home, "setup", "--yes", "--preset", "light", "--join", str(invite))
    client(home, "settings", "set", "idle.only=false")
    with running([sys.executable, "-m", "legion_client", "--home", str(home), "--no-gui"], dict(os.environ)):
        yield


class Photographer:
    """Names what it takes by theme and scale."""

    def __init__(self, seen: Screen, out: Path, scale: int) -> None:
        self.seen = seen
        self.theme = "light"
        self._out = out
        self._scale = scale

    def take(self, name: str, box: Box | None = None) -> None:
        """What lies in the box, or the window that has the keyboard."""
        time.sleep(SHOWN_S)
        if box is None:
            box = opened(self.seen, lambda _: True)
        at_scale = "" if self._scale == 1 else f"@{self._scale}x"
        keep(self.seen.pixels(box), self._out / f"{name}-{self.theme}{at_scale}.png")

    def both(self, name: str) -> None:
        """The window, in each theme."""
        for theme in THEMES:
            self.choose(theme)
            self.take(name)
        self.choose("light")

    def choose(self, theme: str) -> None:
        """By View > Theme."""
        self.theme = theme
        if self._has_theme():
            return
        self.seen.press("Alt_L", "v")
        time.sleep(0.5)
        self.seen.press("t")
        time.sleep(0.7)
        self.seen.press(theme[0])
        end = time.monotonic() + DONE_S
        while not self._has_theme():
            if time.monotonic() > end:
                raise RuntimeError(f"the window does not become {theme}")

    def _has_theme(self) -> bool:
        """At the lower left, below the list of pages, which no menu covers."""
        box = opened(self.seen, lambda _: True)
        ground = Box(box.x, box.y + box.height * 3 // 4, 20, 20)
        return self.seen.count(ground, THEMES[self.theme].window) > 200

    def open(self, page: str, search: str = "") -> None:
        self.seen.press("Control_L", str(PAGES.index(page) + 1))
        time.sleep(0.5)
        if page == "preferences":
            self.seen.press("Control_L", "f")
            self.seen.press("Control_L", "a")
            self.seen.press("BackSpace")
            write(self.seen, search)
        self.seen.move(*self.seen.whole[2:])  # nothing is pointed at


def newcomer(photographer: Photographer, folder: Path, run: Server) -> None:
    """The wizard, an invite's question, and the window of who has none."""
    seen = photographer.seen
    for theme, colors in THEMES.items():
        photographer.theme = theme
        home = Path(tempfile.mkdtemp(dir=folder))
        keep_theme(home, theme)
        with app(seen, home):
            to_last_page(seen, run.invite(), lambda page: photographer.take(f"wizard-{page}"), colors.accent)
            client(home, "--link", run.invite(), environment=seen.environment)
            opened(seen, lambda found: found.title == "Join a run")
            photographer.take("join")
            seen.press("Escape")
            opened(seen, lambda found: found.title == "Legion")
            photographer.take("home-new")


def keep_theme(home: Path, theme: str) -> None:
    (home / "state").mkdir(parents=True)
    (home / "state" / "window.json").write_text(json.dumps({"theme": theme}))


def volunteer(photographer: Photographer, home: Path, run: Server, trained_s: float) -> None:
    """Joins through the wizard where it has not before."""
    seen = photographer.seen
    photographer.theme = "light"
    is_new = not home.exists()
    with app(seen, home):
        if is_new:
            press(seen, to_last_page(seen, run.invite()))
        opened(seen, lambda found: found.title == "Legion")
        photographer.open("home")
        photographer.both("home-starting")
        reached(home, "training")
        client(home, "settings", "set", f'programs.exclusive=["{PROGRAM}", "obs"]')
        time.sleep(trained_s if is_new else trained_s / 4)
        working(photographer, home)
        waiting(photographer, home)
        client(home, "pause")
        reached(home, "paused")
        photographer.both("home-paused")
        client(home, "resume")
        with run.away():
            reached(home, "offline")
            photographer.both("home-offline")
        reached(home, "training")


def working(photographer: Photographer, home: Path) -> None:
    for theme in THEMES:
        photographer.choose(theme)
        for page in PAGES:
            photographer.open(page)
            if page == "home":
                settle_in(home)
            photographer.take(page)
        photographer.open("preferences", "programs.exclusive")
        photographer.take("preferences-programs")
        photographer.open("preferences")
        photographer.open("home")
        tray(photographer)
        quit_question(photographer)
    photographer.choose("light")


def quit_question(photographer: Photographer) -> None:
    seen = photographer.seen
    window = opened(seen, lambda found: found.title == "Legion")
    seen.press("Control_L", "q")
    opened(seen, lambda found: found.box != window)
    photographer.take("quit")
    seen.press("Escape")
    opened(seen, lambda found: found.box == window)


def settle_in(home: Path) -> None:
    """Waits for a moment between two exchanges; without one, as it is."""
    for _ in range(30):
        if status(home)["face"] == "training":
            return


def tray(photographer: Photographer) -> None:
    """The whole screen, with the window, the tray and its menu."""
    seen, faces = photographer.seen, THEMES[photographer.theme].faces
    colors = [int(color.removeprefix("#"), 16) for color in faces.values()]
    rows, columns = np.nonzero(np.isin(seen.pixels(seen.bar), colors))
    seen.click(seen.bar.x + int(np.median(columns)), seen.bar.y + int(np.median(rows)), button=3)
    photographer.take("desktop", seen.whole)
    seen.press("Escape")
    time.sleep(SHOWN_S)


def waiting(photographer: Photographer, home: Path) -> None:
    """For hours that lie six hours ahead, whenever this is run; and for a program."""
    now = datetime.now()
    first, last = (f"{now + timedelta(hours=hours):%H}:00" for hours in (6, 14))
    week = {f"schedule.{day}": f'["{first}-{last}"]' for day in DAYS} | {"schedule.enabled": "true"}
    client(home, "settings", "set", *(f"{name}={value}" for name, value in week.items()))
    reached(home, "waiting")
    for theme in THEMES:
        photographer.choose(theme)
        photographer.open("preferences", "schedule")
        photographer.take("preferences-hours")
        photographer.open("preferences")
        photographer.open("home")
    photographer.both("home-waiting")
    client(home, "settings", "set", *(f"{name}=" for name in week))
    reached(home, "training")


@contextlib.contextmanager
def app(seen: Screen, home: Path) -> Iterator[None]:
    with running([sys.executable, "-m", "legion_client", "--home", str(home)], seen.environment):
        yield


def keep(pixels: np.ndarray, path: Path) -> None:
    """With a palette, a third of the size: of rare colours that are hardly apart, all take the most frequent one."""
    colors, place, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    parts = np.stack([(colors >> shift & 255).astype(np.int32) for shift in (16, 8, 0)], axis=1)
    order = np.argsort(-counts)
    rarer = order[FLAT_COLORS:]
    _, first = np.unique(parts[rarer] >> CLOSE_BITS, axis=0, return_index=True)
    chosen = np.concatenate([order[:FLAT_COLORS], rarer[np.sort(first)]])[:MOST_COLORS]
    apart = ((parts[:, None] - parts[chosen][None]) ** 2).sum(axis=2)
    indexed = np.ascontiguousarray(apart.argmin(axis=1).astype(np.uint8)[place].reshape(pixels.shape))
    height, width = pixels.shape
    image = QImage(indexed.data, width, height, width, QImage.Format.Format_Indexed8)
    image.setColorTable([0xFF000000 | int(color) for color in colors[chosen]])
    if not image.save(str(path), "PNG", 0):
        raise RuntimeError(f"{path} cannot be written")


if __name__ == "__main__":
    main()
