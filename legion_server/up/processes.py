"""The processes of a run: started in groups of their own, listened to, and ended with everything they started.

Invariant: when `Children` is left, by whatever way, none of them lives.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import psutil

from legion.errors import StorageFailed, Unavailable

LINE_BYTES = 2**20
OnLine = Callable[[str, str], None]  # the process's name, and what it said


@dataclass(frozen=True)
class Command:
    """What to start. `stdin` is written at once and the pipe is closed."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    stdin: str | None = None


class Child:
    """One running process."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """As a shell says it: 128 + n for a process ended by signal n. None while it lives."""
        code = self._process.returncode
        return code if code is None or code >= 0 else 128 - code

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        await self._process.wait()
        assert self.exit_code is not None
        return self.exit_code

    def ask_to_stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)


class Children:
    """All processes of a run and the tasks that read their output."""

    def __init__(self, on_line: OnLine, logs_dir: Path | None) -> None:
        self._on_line = on_line
        self._logs_dir = logs_dir
        self._children: list[Child] = []
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        kill_all([child.pid for child in self._children if child.exit_code is None])
        for child in self._children:
            await child.ended()
        # Their output ends with them, unless something they left behind still holds the pipe.
        if self._readers:
            await asyncio.wait(self._readers, timeout=2.0)
        for reader in self._readers:
            reader.cancel()

    @property
    def alive(self) -> list[Child]:
        return [child for child in self._children if child.exit_code is None]

    async def start(self, command: Command) -> Child:
        log = _open_log(self._logs_dir, command.name)
        try:
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                stdin=DEVNULL if command.stdin is None else PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                limit=LINE_BYTES,
                env=dict(command.environment),
                # Ctrl-C reaches a whole process group: these hear of it from here, in the right order.
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"{command.name} cannot be started: {error}") from error
        child = Child(command.name, process)
        self._children.append(child)
        self._readers.append(asyncio.create_task(self._read(child.name, process, log)))
        if command.stdin is not None:
            await _write(process, command.stdin)
        return child

    async def stop(self, children: Sequence[Child], within_s: float) -> list[Child]:
        """Asks them to end; those that still live after `within_s` are killed, and returned."""
        for child in children:
            child.ask_to_stop()
        waits = [asyncio.create_task(child.ended()) for child in children]
        if waits:
            await asyncio.wait(waits, timeout=within_s)
        stubborn = [child for child in children if child.exit_code is None]
        kill_all([child.pid for child in stubborn])
        if waits:
            await asyncio.wait(waits)
        return stubborn

    async def _read(self, name: str, process: Process, log: IO[str] | None) -> None:
        assert process.stdout is not None
        with log or contextlib.nullcontext():
            while True:
                try:
                    line = await process.stdout.readline()
                except ValueError:  # longer than LINE_BYTES, dropped by the reader
                    line = b"(a line too long to show)\n"
                if not line:
                    return
                text = line.decode(errors="replace").rstrip()
                if log is not None:
                    log.write(text + "\n")
                    log.flush()
                self._on_line(name, text)


def kill_all(pids: Sequence[int]) -> None:
    """Kills the processes with all their descendants: an engine must not outlive its client's sudden end."""
    doomed: list[psutil.Process] = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            doomed += [*process.children(recursive=True), process]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


async def _write(process: Process, text: str) -> None:
    assert process.stdin is not None
    # A process that died at once is noticed by its end, not here.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(text.encode() + b"\n")
        await process.stdin.drain()
    process.stdin.close()


def _open_log(folder: Path | None, name: str) -> IO[str] | None:
    if folder is None:
        return None
    path = folder / f"{name}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}") from error
