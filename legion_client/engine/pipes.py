"""The engine's end of its pipes: commands from standard input, reports to standard output."""

import asyncio
import os
import sys
import threading

from pydantic import ValidationError

from legion.errors import RunError
from legion.messages import Message
from legion_client.engine.protocol import COMMANDS, Command


class Pipes:
    """Commands in, reports out. Nothing else may write to standard output."""

    def __init__(self, reports_fd: int) -> None:
        self._commands: asyncio.Queue[bytes] = asyncio.Queue()
        self._reports_fd = reports_fd

    async def next_command(self) -> Command | None:
        """None: the agent is gone. RunError for a line that is no command."""
        line = await self._commands.get()
        try:
            return COMMANDS.validate_json(line) if line else None
        except ValidationError as error:
            raise RunError("the engine was told something that it cannot read; start it with its own agent") from error

    def report(self, report: Message) -> None:
        """Written at once and whole. A pipe nobody reads any more is the agent's end, which `next_command` tells."""
        data = memoryview(report.model_dump_json().encode() + b"\n")
        try:
            while data:
                data = data[os.write(self._reports_fd, data) :]
        except BrokenPipeError:
            return

    def read_forever(self, loop: asyncio.AbstractEventLoop) -> None:
        """For a thread of its own: not every event loop can read the pipe that a parent left us."""
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(self._commands.put_nowait, line)
        loop.call_soon_threadsafe(self._commands.put_nowait, b"")


def open_pipes() -> Pipes:
    """Keeps standard output for reports: what libraries print goes to standard error."""
    reports_fd = os.dup(1)
    os.dup2(2, 1)
    pipes = Pipes(reports_fd)
    reader = threading.Thread(
        target=pipes.read_forever, args=(asyncio.get_running_loop(),), name="commands", daemon=True
    )
    reader.start()
    return pipes
