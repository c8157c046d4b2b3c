"""How soon the desktop app is seen, and how soon it answers while its engine trains on all cores.

start    from the command to the icon's pixels in the tray, and to the window's; fresh homes, byte code written
latency  a client of a server on loopback trains (`tiny`, as many threads as cores). Meanwhile the window's pages are
         opened by clicks of the pointer, in random order; an answer is a change of pixels where the clicked entry lies,
         so X server and window manager count. And the agent, on the same event loop as the window, is asked for its
         status over the control socket: connection, hello, question, answer.

python benchmarks/desktop.py [--only start latency] [--starts 15] [--clicks 500] [--json FILE]
    (apt: xvfb icewm dbus)
"""

import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
from rows import Row, parser, show, status_of
from volunteer.cost import ENGINE
from volunteer.processes import running
from volunteer.screen import BAR, Box, Screen, screen
from volunteer.server import client, config, reached, server

from legion_client.control.client import Control
from legion_client.paths import Home
from legion_client.ui.colors import LIGHT

SEEN_S = 30.0
POLL_S = 0.005
ICON_PX = 20  # of its colour at least
PAGES = 7
PAUSES_S = (0.05, 0.2)  # between clicks
ANSWER_S = 2.0
MOST_MS = 50.0
ALL_CORES = ("processor.cores_in_use_percent=100", "processor.spare_cores=0", "processor.busy_percent=0")


def seen(screen: Screen, home: Path) -> tuple[float, float]:
    """Seconds to the tray and to the window."""
    (home / "state").mkdir(parents=True)
    (home / "state" / "window.json").write_text('{"wizard_done": true}')
    screen.settled()
    began = time.perf_counter()
    tray = window = None
    with running([sys.executable, "-m", "legion_client", "--home", str(home)], screen.environment):
        while tray is None or window is None:
            passed_s = time.perf_counter() - began
            if passed_s > SEEN_S:
                raise RuntimeError(f"not seen in {SEEN_S:.0f} s: tray {tray}, window {window}")
            if tray is None and max(screen.count(BAR, color) for color in LIGHT.faces.values()) >= ICON_PX:
                tray = time.perf_counter() - began
            if window is None and is_window(screen.pixels(Box(0, 0, 600, 200))):
                window = time.perf_counter() - began
            time.sleep(POLL_S)
    return tray, window


def is_window(pixels: np.ndarray) -> bool:
    """Not only its ground, but what is written on it, whose smoothed edges have many colours."""
    ground = int((pixels == int(LIGHT.window.removeprefix("#"), 16)).sum())
    return ground > pixels.size // 8 and len(np.unique(pixels)) > 40


def starts(count: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, screen(Path(folder) / "user") as watched:
        seen(watched, Path(folder) / "first")  # writes the byte code
        loads, trays, windows = [], [], []
        for number in range(count):
            loads.append(os.getloadavg()[0])
            tray, window = seen(watched, Path(folder) / f"home-{number}")
            trays.append(tray)
            windows.append(window)
    load = f"load average {min(loads):.1f} to {max(loads):.1f}"
    rows = []
    for what, values, bar in (("tray", trays, "<= 1"), ("window", windows, "<= 1.5")):
        note = f"least {min(values):.2f}, most {max(values):.2f} of {count}; {load}"
        rows.append(Row(f"command to visible {what}", statistics.median(values), "s", bar, note))
    return rows


class Pages:
    """The entries of the window's list, found where their mark appears when a key opens them."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.entries = [self._entry(number) for number in range(1, PAGES + 1)]

    def _entry(self, number: int) -> Box:
        before = self._marked()
        self._screen.press("Control_L", str(number))
        end = time.monotonic() + SEEN_S
        while (box := self._marked()) is None or (number > 1 and box == before):
            if time.monotonic() > end:
                raise RuntimeError(f"page {number} does not open")
            time.sleep(POLL_S)
        self._screen.settled()  # it is drawn: from now on only opening is measured
        return self._marked() or box

    def _marked(self) -> Box | None:
        left = Box(0, 0, 140, 400)  # of the pages themselves, which use the colour too
        rows, columns = np.nonzero(self._screen.pixels(left) == int(LIGHT.selected.removeprefix("#"), 16))
        if len(rows) < 100:
            return None
        x, y = int(columns.min()), int(rows.min())
        return Box(x, y, int(columns.max()) - x, int(rows.max()) - y)

    def is_open(self, entry: Box) -> bool:
        return self._screen.count(entry, LIGHT.selected) > 100

    def answer_s(self, entry: Box) -> float:
        """From the click to the mark."""
        began = time.perf_counter()
        self._screen.click(entry.x + entry.width - 10, entry.y + entry.height // 2)
        while not self.is_open(entry):
            if time.perf_counter() - began > ANSWER_S:
                return ANSWER_S
        return time.perf_counter() - began


def clicked(screen: Screen, count: int) -> list[float]:
    chance = random.Random(0)
    pages = Pages(screen)
    taken = []
    for _ in range(count):
        time.sleep(chance.uniform(*PAUSES_S))
        closed = [entry for entry in pages.entries if not pages.is_open(entry)]
        taken.append(pages.answer_s(chance.choice(closed)))
    return taken


async def asked(home: Path, count: int) -> list[float]:
    control, taken = Control(Home(home)), []
    for _ in range(count):
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await control.status()
        taken.append(time.perf_counter() - began)
    return taken


def latency(count: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        run = ends.enter_context(server(folder / "server"))
        run.configure(config(workers=1, model={"preset": "tiny"}))
        watched = ends.enter_context(screen(folder / "user"))
        home = folder / "home"
        (folder / "invite.txt").write_text(run.invite())
        client(home, "setup", "--yes", "--preset", "full", "--join", str(folder / "invite.txt"))
        client(home, "settings", "set", *ALL_CORES)
        app = ends.enter_context(
            running([sys.executable, "-m", "legion_client", "--home", str(home)], watched.environment)
        )
        reached(home, "training")
        engine = next(p for p in psutil.Process(app.pid).children(recursive=True) if ENGINE in p.cmdline())
        rows = []
        for what, probe in (
            ("click to the page's mark", lambda: clicked(watched, count)),
            ("question to the agent's answer", lambda: asyncio.run(asked(home, count))),
        ):
            rows += judged(what, probe, engine)
        return rows


def judged(what: str, probe: Callable[[], Sequence[float]], engine: psutil.Process) -> list[Row]:
    engine.cpu_percent()
    psutil.cpu_percent()
    taken = [1000 * seconds for seconds in probe()]
    cores, busy = engine.cpu_percent() / 100, psutil.cpu_percent()
    note = f"{len(taken)} times; the engine on {cores:.1f} of {psutil.cpu_count()} cores, processor {busy:.0f} % busy"
    load = f"most {max(taken):.0f} ms; load average {os.getloadavg()[0]:.1f}"
    return [
        Row(f"{what}, median", statistics.median(taken), "ms", note=note),
        Row(f"{what}, 99 of 100", float(np.percentile(taken, 99)), "ms", f"<= {MOST_MS:g}", load),
    ]


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--only", nargs="+", choices=("start", "latency"), default=("start", "latency"))
    arguments.add_argument("--starts", type=int, default=15)
    arguments.add_argument("--clicks", type=int, default=500)
    options = arguments.parse_args()
    rows = []
    if "start" in options.only:
        rows += starts(options.starts)
    if "latency" in options.only:
        rows += latency(options.clicks)
    return show("The desktop app", rows, options.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
