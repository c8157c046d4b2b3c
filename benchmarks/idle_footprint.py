"""What Legion costs a computer while it does not train, next to BOINC's client in the same minutes.

Four agents of a run on loopback, each with a home of its own: with a tray (its window never opened) and headless, each
paused by hand after it has trained, and waiting for hours that its schedule allows. The screen is Xvfb with icewm and a
session bus. BOINC's client has no project. All are measured at the same time, by perf, once they are quiet.
Then, ten minutes after the pause, it counts the engines that still live; with --pause 0 it does not wait for that.

python benchmarks/idle_footprint.py [--seconds 120] [--pause 600] [--json FILE]      # as root
    (apt: xvfb icewm dbus linux-perf boinc-client)
"""

import compileall
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from rows import Row, parser, show, status_of
from volunteer.cost import Cost, boinc, costs, engines
from volunteer.processes import running
from volunteer.screen import screen
from volunteer.server import Server, client, config, reached, server

import legion
import legion_client

QUIET_S = 30.0  # after the last change
PAUSE_S = 600.0  # after which an engine's memory is given back
END_S = 45.0  # for it to end
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
KINDS = ("tray, paused", "tray, waiting", "headless, paused", "headless, waiting")
BARS = {"tray": "<= 160", "headless": "<= 70"}


def joined(folder: Path, kind: str, run: Server) -> Path:
    """The home of a client of this kind."""
    home = folder / kind.replace(", ", "-")
    invite = folder / "invite.txt"
    invite.write_text(run.invite())
    client(home, "setup", "--yes", "--preset", "full", "--join", str(invite))
    chosen = ["processor.busy_percent=0"]  # other load here is no reason to wait
    if kind.endswith("waiting"):
        chosen += ["schedule.enabled=yes", *(f"schedule.{day}=[]" for day in DAYS)]
    client(home, "settings", "set", *chosen)
    return home


def rows(name: str, cost: Cost) -> list[Row]:
    """BOINC's have no bar."""
    is_ours = name in KINDS
    memory = f"{cost.own_mb:.0f} MB of it its own"
    woken = f"{cost.slept_per_s:.2f} after a sleep"
    return [
        Row(f"{name}: processor", cost.cpu_percent, "% of a core", "<= 0.5" if is_ours else ""),
        Row(f"{name}: wake-ups", cost.wakeups_per_s, "1/s", "<= 4" if is_ours else "", woken),
        Row(f"{name}: memory", cost.rss_mb, "MB", BARS[name.split(",")[0]] if is_ours else "", memory),
    ]


def compiled() -> None:
    """As pip does it: a start without bytecode compiles, and keeps some of the memory that this took."""
    for package in (legion, legion_client):
        compileall.compile_dir(Path(package.__path__[0]), quiet=1)


def measured(folder: Path, seconds: float, pause_s: float) -> list[Row]:
    with contextlib.ExitStack() as ends:
        run = ends.enter_context(server(folder / "server"))
        run.configure(config(workers=2))
        seen = ends.enter_context(screen(folder / "user"))
        homes = {kind: joined(folder, kind, run) for kind in KINDS}
        pids = {}
        for kind, home in homes.items():
            how = "--background" if kind.startswith("tray") else "--no-gui"
            command = [sys.executable, "-m", "legion_client", "--home", str(home), how]
            pids[kind] = ends.enter_context(running(command, seen.environment)).pid
        pids["BOINC's client"] = ends.enter_context(running(boinc(folder / "boinc"), dict(os.environ))).pid
        paused = [kind for kind in KINDS if kind.endswith("paused")]
        for kind in paused:
            reached(homes[kind], "training")
        for kind in paused:
            client(homes[kind], "pause")
        since = time.monotonic()
        for kind, home in homes.items():
            reached(home, kind.split(", ")[1])
        had = engines([pids[kind] for kind in paused])
        time.sleep(QUIET_S)
        print(f"measuring for {seconds:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
        found = costs(pids, seconds)
        made = [row for name, cost in found.items() for row in rows(name, cost)]
        load = f"load average {os.getloadavg()[0]:.1f}"
        time.sleep(max(0.0, since + pause_s + END_S - time.monotonic()))
        left = engines([pids[kind] for kind in KINDS])
        note = f"of {had} that were there when it began; {load} while measuring"
        return [*made, Row(f"engines {(pause_s + END_S) / 60:.1f} minutes after the pause", left, "", "<= 0", note)]


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=120.0, help="how long to measure")
    arguments.add_argument("--pause", type=float, default=PAUSE_S, help="seconds of pause before engines are counted")
    options = arguments.parse_args()
    compiled()
    with tempfile.TemporaryDirectory() as folder:
        return show("Doing nothing", measured(Path(folder), options.seconds, options.pause), options.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
