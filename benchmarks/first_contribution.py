"""From the wizard's last page to the first contribution that the server accepts, and what the window shows meanwhile.

Everything is real and on this machine: `legion-server serve` with a run of the `tiny` model in rounds, and the desktop
app, started with a home that does not exist yet. It opens its wizard by itself; the invite is typed where the first
page asks for it, and the pages are turned by clicks of the pointer with all as it is proposed, that is the preset
Balanced. The clock starts at the click on "Start training", and stops when the server has a round's record that
includes this computer's contribution.

Progress: the status that the window follows is read as it comes. In every second of the way it must show the work of
the moment (syncing or training) with a sentence, from the moment the server is joined; and something in the window's
pixels must move again and again.

python benchmarks/first_contribution.py [--repeats 3] [--json FILE]      # apt: xvfb icewm dbus xdotool
"""

import asyncio
import contextlib
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rows import Row, parser, show, status_of
from volunteer.processes import running
from volunteer.screen import Box, Screen, screen
from volunteer.server import Server, server
from volunteer.wizard import press, to_last_page

from legion_client.control.client import Control
from legion_client.control.messages import Status
from legion_client.paths import Home

LONGEST_S = 180.0
LOOK_S = 0.2
LINE_S = 0.5  # between printed lines
WINDOW = Box(0, 0, 740, 510)
AT_WORK = ("syncing", "training")
RUN = {
    "steps": 100_000,
    "model": {"preset": "tiny"},
    "cluster": {"policy": "fixed", "size": 1},
    "start": {"workers": 1},
}


@dataclass
class Way:
    """What was shown, and when, in s since the volunteer's last click."""

    began: float
    told: list[tuple[float, str, str]] = field(default_factory=list)  # moment, face, sentence
    moved: list[float] = field(default_factory=list)  # when pixels of the window had changed
    accepted: float = math.inf

    @property
    def now(self) -> float:
        return time.perf_counter() - self.began

    def shown_at(self, moment: float) -> tuple[str, str] | None:
        before = [(face, sentence) for at, face, sentence in self.told if at <= moment]
        return before[-1] if before else None

    @property
    def joined(self) -> float:
        return next((at for at, face, _ in self.told if face in AT_WORK), math.inf)

    @property
    def silent_seconds(self) -> int:
        """Of those after joining, without work and a sentence about it."""
        seconds = range(math.ceil(self.joined), math.floor(self.accepted) + 1)
        shown = [self.shown_at(float(second)) for second in seconds]
        return sum(one is None or one[0] not in AT_WORK or not one[1] for one in shown)

    @property
    def longest_still_s(self) -> float:
        moments = [0.0, *(at for at in self.moved if at < self.accepted), self.accepted]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


async def watch(way: Way, home: Path, looked_at: Screen, run: Server) -> None:
    """Until the server has accepted a contribution."""
    following = asyncio.create_task(follow(way, home))
    before = looked_at.pixels(WINDOW).tobytes()
    try:
        while way.now < LONGEST_S:
            pixels = looked_at.pixels(WINDOW).tobytes()
            if pixels != before:
                before = pixels
                way.moved.append(way.now)
            if await asyncio.to_thread(run.has_accepted):
                way.accepted = way.now
                return
            await asyncio.sleep(LOOK_S)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def follow(way: Way, home: Path) -> None:
    async for told in Control(Home(home)).follow():
        if isinstance(told, Status):
            sentence = told.progress or told.headline
            if not way.told or way.told[-1][1:] != (told.face, sentence):
                way.told.append((way.now, told.face, sentence))


async def given(home: Path, start: Box, looked_at: Screen, run: Server) -> Way:
    """From the click on `start`, the button of the wizard's last page."""
    way = Way(time.perf_counter())
    press(looked_at, start)
    await watch(way, home, looked_at, run)
    return way


def once(folder: Path) -> Way:
    with contextlib.ExitStack() as ends:
        run = ends.enter_context(server(folder / "server"))
        run.configure(RUN)
        looked_at = ends.enter_context(screen(folder / "user"))
        home = folder / "home"
        app = [sys.executable, "-m", "legion_client", "--home", str(home)]
        ends.enter_context(running(app, looked_at.environment))
        start = to_last_page(looked_at, run.invite())
        return asyncio.run(given(home, start, looked_at, run))


def story(way: Way) -> None:
    printed = -1.0
    for at, face, sentence in way.told:
        if at <= way.accepted and at >= printed + LINE_S:
            printed = at
            print(f"{at:6.1f} s  {face:10} {sentence}")
    print(f"{way.accepted:6.1f} s  the server has accepted a contribution; load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    ways = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            ways.append(once(Path(folder)))
            story(ways[-1])
    taken = [way.accepted for way in ways]
    note = f"least {min(taken):.0f}, most {max(taken):.0f} of {len(taken)}; load average {os.getloadavg()[0]:.1f}"
    return show(
        "A volunteer's first contribution",
        [
            Row("last page to accepted contribution", statistics.median(taken), "s", "<= 60", note),
            Row("last page to the first sign of work", statistics.median(way.joined for way in ways), "s"),
            Row(
                "seconds without work and a sentence", max(way.silent_seconds for way in ways), "", "<= 0", "the worst"
            ),
            Row(
                "longest time nothing moves in the window",
                max(way.longest_still_s for way in ways),
                "s",
                "",
                "the worst",
            ),
        ],
        options.json,
    )


if __name__ == "__main__":
    sys.exit(status_of(main))
