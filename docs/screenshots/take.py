"""Pictures of the desktop app on a real X server with a window manager and a tray, in both themes and at two scales.

    python docs/screenshots/take.py            # starts Xvfb and icewm by itself (apt: xvfb icewm imagemagick)
    python docs/screenshots/take.py home run   # only these

The agent behind the window is the in-memory one of the tests, with a day's history.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "shared"), str(ROOT / "benchmarks")]
SCREEN = (1000, 700)
PAGES = ("home", "run", "activity", "graphs", "preferences", "logs")
LOG = """\
09:12:44 INFO    legion_client.agent.service joined round=13 workers=38
09:12:44 INFO    legion_client.agent.supervisor engine started pid=48211
09:13:02 INFO    legion_client.engine.main round begins round=13 steps=32
09:20:17 WARNING legion_client.agent.coordinator server away tries=3 next_s=42
09:21:01 INFO    legion_client.agent.coordinator server back after_s=44
09:31:40 INFO    legion_client.agent.rounds contributed round=13 tokens=262144
09:31:41 ERROR   legion_client.agent.supervisor engine ended code=-9
09:31:43 INFO    legion_client.agent.supervisor engine started pid=48377
"""


def main() -> None:
    from volunteer.screen import display

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="pages, states or dialogs; all by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--theme", choices=("light", "dark"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.theme:
        take(arguments.theme, arguments.out, set(arguments.only))
        return
    for scale in (1, 2):
        width, height = (side * scale for side in SCREEN)
        with tempfile.TemporaryDirectory() as home, display(Path(home), (width, height)) as environment:
            environment["QT_SCALE_FACTOR"] = str(scale)
            for theme in ("light", "dark"):
                again = [sys.executable, __file__, *arguments.only, "--out", str(arguments.out), "--theme", theme]
                subprocess.run(again, env=environment, check=True)


def take(theme: str, out: Path, only: set[str]) -> None:
    from PySide6.QtCore import QLocale
    from PySide6.QtGui import QFont

    from legion_client.paths import Home
    from legion_client.ui import app
    from legion_client.ui.desktop import Desktop as App
    from legion_client.ui.language import QtWords
    from tests.client.ui import memory_desk

    QLocale.setDefault(QLocale(QLocale.Language.English, QLocale.Country.UnitedStates))
    application = app.application_of()
    application.setFont(QFont("Inter", 10))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.engine_log.parent.mkdir(parents=True)
        home.engine_log.write_text(LOG)
        desktop = App(application, home, QtWords())
        desktop.memory.keep(wizard_done=True)
        desktop.theme.choose(theme)
        photographer = Photographer(desktop, theme, out, only)
        desk = memory_desk.with_history(time.time())
        desk.kept_curve = desk.kept_curve.model_copy(update={"text": None})  # no server has one yet
        import qasync

        with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(application)) as runner:
            runner.run(photographer.work(desk, partial(memory_desk.seat_of, desk)))


class Photographer:
    """Goes through everything that can be seen."""

    def __init__(self, desktop, theme: str, out: Path, only: set[str]) -> None:
        self.desktop = desktop
        self.theme = theme
        self.out = out
        self.only = only

    async def work(self, desk, seat) -> None:
        from legion_client.ui.app import attend

        talk = asyncio.create_task(attend(self.desktop, seat))
        await asyncio.sleep(1.0)
        self.desktop.find_tray(True)
        self.desktop.raise_window()
        self.desktop.window.resize(860, 560)
        await self.pages()
        await self.pickers(desk)
        await self.states(desk)
        await self.dialogs(desk)
        await self.tray(desk)
        self.desktop.leave()
        await talk

    def wants(self, name: str) -> bool:
        return not self.only or name in self.only

    async def shoot(self, widget, name: str) -> None:
        await asyncio.sleep(0.5)
        scale = round(widget.devicePixelRatioF())
        widget.grab().save(str(self.out / f"{name}-{self.theme}{'' if scale == 1 else f'@{scale}x'}.png"))

    async def pages(self) -> None:
        for page in filter(self.wants, PAGES):
            self.desktop.window.open_page(page)
            await self.shoot(self.desktop.window, page)

    async def pickers(self, desk) -> None:
        desk.values = {f"schedule.{day}": ["22:30-07:00"] for day in ("monday", "tuesday", "wednesday", "thursday")}
        desk.values |= {"schedule.friday": ["22:30-24:00"], "programs.exclusive": ["blender", "obs"]}
        for name, place in (("hours", "schedule.monday"), ("programs", "programs.exclusive")):
            if self.wants(f"preferences-{name}"):
                self.desktop.window.open_page(f"preferences:{place}")
                await self.shoot(self.desktop.window, f"preferences-{name}")
        desk.values = {}

    async def states(self, desk) -> None:
        from tests.client.ui import memory_desk

        self.desktop.window.open_page("home")
        states = {
            "waiting": memory_desk.WAITING,
            "new": memory_desk.NEW,
            "downloading": memory_desk.TRAINING.model_copy(
                update={
                    "face": "syncing",
                    "headline": "Getting ready for round 13.",
                    "tokens_per_s": 0.0,
                    "progress": "Downloading the model: 312 MB of 548 MB",
                    "progress_share": 0.57,
                }
            ),
        }
        for name, status in states.items():
            if self.wants(name):
                desk.tell(**dict(status))
                await self.shoot(self.desktop.window, f"home-{name}")
        desk.tell(**dict(memory_desk.TRAINING))

    async def dialogs(self, desk) -> None:
        from legion.identity import Invite

        invite = Invite("training.example.org", 8470, "secret", "3f9a41c07be2d856" * 4)
        if self.wants("wizard"):
            self.desktop.set_up(str(invite))
            for page in range(1, 5):
                await self.shoot(self.desktop.dialog, f"wizard-{page}")
                if page < 4:
                    self.desktop.dialog._leave_page(skipped=False)
            self.desktop.dialog.reject()
        if self.wants("join"):
            self.desktop.ask_to_join(str(invite))
            await self.shoot(self.desktop.dialog, "join")
            self.desktop.dialog.reject()
        if self.wants("quit"):
            self.desktop.ask_to_quit()
            await self.shoot(self.desktop.dialog, "quit")
            self.desktop.dialog.reject()

    async def tray(self, desk) -> None:
        """The whole screen, with the window, the tray and its menu."""
        from PySide6.QtCore import QPoint

        if not self.wants("tray"):
            return
        await asyncio.sleep(0.5)
        screen = self.desktop.application.primaryScreen()
        menu = self.desktop.tray.menu
        corner = screen.geometry().bottomRight() - QPoint(menu.sizeHint().width() + 40, menu.sizeHint().height() + 40)
        menu.popup(corner)
        await asyncio.sleep(0.5)
        scale = round(screen.devicePixelRatio())
        path = self.out / f"desktop-{self.theme}{'' if scale == 1 else f'@{scale}x'}.png"
        screen.grabWindow(0).save(str(path))
        menu.hide()


if __name__ == "__main__":
    main()
