"""Pictures of the desktop app while it really trains: a server on loopback, a home that has joined it, a screen.

    python docs/screenshots/training.py        # starts Xvfb and icewm by itself (apt: xvfb icewm dbus)

What `take.py` shows with a day's history is shown here with some minutes' of this computer.
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "shared"), str(ROOT / "benchmarks")]

from PySide6.QtGui import QImage  # noqa: E402  after the paths above
from volunteer.processes import running  # noqa: E402  the same
from volunteer.screen import ALL, SIZE, Screen, screen  # noqa: E402  the same
from volunteer.server import client, config, reached, server  # noqa: E402  the same

PAGES = ("home", "run", "activity", "graphs")  # Ctrl+1 to Ctrl+4
TRAINED_S = 120.0  # before the pictures, for something to be seen on them
SHOWN_S = 3.0


def main() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        run = ends.enter_context(server(folder / "server"))
        run.configure(config(1, evaluation={"every_steps": 256, "max_blocks": 16}))
        seen = ends.enter_context(screen(folder / "user"))
        home, invite = folder / "home", folder / "invite.txt"
        invite.write_text(run.invite())
        client(home, "setup", "--yes", "--preset", "full", "--join", str(invite))
        (home / "state").mkdir(parents=True, exist_ok=True)
        (home / "state" / "window.json").write_text('{"wizard_done": true}')
        ends.enter_context(running([sys.executable, "-m", "legion_client", "--home", str(home)], seen.environment))
        reached(home, "training")
        time.sleep(TRAINED_S)
        for number, page in enumerate(PAGES, start=1):
            seen.press("Control_L", str(number))
            time.sleep(SHOWN_S)
            keep(seen, FOLDER / f"training-{page}.png")
        client(home, "pause")
        reached(home, "paused")
        seen.press("Control_L", "1")
        time.sleep(SHOWN_S)
        keep(seen, FOLDER / "training-paused.png")


def keep(seen: Screen, path: Path) -> None:
    width, height = SIZE
    pixels = seen.pixels(ALL).astype("uint32").tobytes()
    if not QImage(pixels, width, height, width * 4, QImage.Format.Format_RGB32).save(str(path)):
        raise RuntimeError(f"{path} cannot be written")


if __name__ == "__main__":
    main()
