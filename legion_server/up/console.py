"""What a person sees: every process's lines, timed and in its own colour, above a line that shows the progress.

When standard output is no terminal, progress is a plain line every few seconds.
"""

import re
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from legion_server.up.progress import Progress

COLOURS = ("cyan", "magenta", "yellow", "blue", "green", "bright_cyan", "bright_magenta", "bright_yellow")
PLAIN_EVERY_S = 5.0
# The processes' own clock times: this program says when a line came.
_CLOCK = re.compile(r"^\d\d:\d\d:\d\d(?:[.,]\d+)? ")
_ALARM = re.compile(r"\b(ERROR|CRITICAL)\b")
_WARNING = re.compile(r"\bWARNING\b")


class Screen:
    """The only writer to standard output. Use it in `with`."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._clock = clock
        self._colours: dict[str, str] = {}
        self._live: Live | None = None
        self._plain_due = 0.0
        self._plain_step = -1

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, name: str, text: str) -> None:
        """One line of one process."""
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        body = _CLOCK.sub("", text)
        style = "red" if _ALARM.search(body) else "yellow" if _WARNING.search(body) else ""
        stamp = time.strftime("%H:%M:%S")
        self._console.print(
            Text.assemble((stamp, "dim"), " ", (f"{name:<9}", colour), " ", (body, style)), soft_wrap=True
        )

    def say(self, text: str, style: str = "bold") -> None:
        """A line of `up` itself."""
        self._console.print(
            Text.assemble((time.strftime("%H:%M:%S"), "dim"), " ", (f"{'up':<9}", "bold"), " ", (text, style)),
            soft_wrap=True,
        )

    def block(self, text: str) -> None:
        """Text without a frame, as it is: a sample, a table."""
        self._console.print(Text(text), soft_wrap=True)

    def show(self, progress: Progress) -> None:
        """The progress as of now."""
        if self._live is not None:
            self._live.update(_drawing(progress))
            return
        now = self._clock()
        if progress.step != self._plain_step and (now >= self._plain_due or progress.step == progress.steps):
            self._plain_due = now + PLAIN_EVERY_S
            self._plain_step = progress.step
            self.say(progress.headline, "")

    def clear_progress(self) -> None:
        """No longer shown; lines go on."""
        if self._live is not None:
            self._live.update(Text(""))


def _drawing(progress: Progress) -> Group:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(ProgressBar(total=max(1, progress.steps), completed=progress.step), Text(progress.headline))
    return Group(table, Text(progress.shares, "dim")) if progress.shares else Group(table)
