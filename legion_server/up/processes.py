"""The processes of a run: started in groups of their own, listened to, and ended with everything they started.

Invariant: when `Children` is left, by whatever way, none of them lives. On Linux that includes kill -9 of this process:
the kernel then asks each child to stop.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import psutil

from legion.errors import StorageFailed, Unavailable

LINE_BYTES = 2**16  # a longer line is said in parts
LAST_LINES_S = 2.0
POLL_S = 0.01
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
OnLine = Callable[[str, str], None]  # the process's name, and what it said


@dataclass(frozen=True)
class Command:
    """What to start. `stdin` is written at once and the pipe is closed."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    stdin: str | None = None


class Child(asyncio.SubprocessProtocol):
    """One running process. Its exit counts when it happens, even if something it started still holds its output."""

    def __init__(self, name: str, on_line: OnLine, log: IO[str] | None) -> None:
        self.name = name
        self._on_line = on_line
        self._log = log
        self._rest = bytearray()
        self._exited = asyncio.Event()
        self.silent = asyncio.Event()  # its output has ended
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def pid(self) -> int:
        return self._running.get_pid()

    @property
    def exit_code(self) -> int | None:
        """As a shell says it: 128 + n for a process ended by signal n. None while it lives."""
        code = self._running.get_returncode()
        return code if code is None or code >= 0 else 128 - code

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        await self._exited.wait()
        assert self.exit_code is not None
        return self.exit_code

    def ask_to_stop(self) -> None:
        # Not SIGINT: in a Python that is still importing, that is a traceback.
        with contextlib.suppress(ProcessLookupError):
            self._running.terminate()

    def write(self, text: str) -> None:
        """To its standard input, which ends there. A process that died at once is noticed by its end, not here."""
        pipe = self._running.get_pipe_transport(0)
        assert isinstance(pipe, asyncio.WriteTransport)
        pipe.write(text.encode())
        pipe.close()

    def close(self) -> None:
        """The pipes; what is left of a line is said."""
        self._say_rest()
        self._running.close()
        if self._log is not None:
            try:
                self._log.close()
            except OSError as error:
                self._give_up_log(error)

    @property
    def _running(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def process_exited(self) -> None:
        self._exited.set()

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        for line in lines:
            self._say(line)
        if len(self._rest) > LINE_BYTES:
            self._say_rest()

    def pipe_connection_lost(self, fd: int, _error: Exception | None) -> None:
        if fd == 1:
            self._say_rest()
            self.silent.set()

    def _say_rest(self) -> None:
        if self._rest:
            self._say(self._rest)
            self._rest = bytearray()

    def _say(self, line: bytes | bytearray) -> None:
        text = line.decode(errors="replace").rstrip()
        if self._log is not None:
            try:
                self._log.write(text + "\n")
                self._log.flush()
            except OSError as error:
                self._give_up_log(error)
        self._on_line(self.name, text)

    def _give_up_log(self, error: OSError) -> None:
        """A full disk must not end a good run, nor cost its lines on the screen."""
        assert self._log is not None
        log, self._log = self._log, None
        with contextlib.suppress(OSError):  # its buffer still holds what did not fit
            log.close()
        self._on_line(self.name, f"WARNING {log.name} is written no longer: {error.strerror or error}")


def _end_with_parent() -> None:
    """In the child, before it becomes the command: prctl(2)."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Children:
    """All processes of a run."""

    def __init__(self, on_line: OnLine, logs_dir: Path | None) -> None:
        self._on_line = on_line
        self._logs_dir = logs_dir
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        doomed = kill_all([child.pid for child in self._children])
        for child in self._children:
            await child.ended()
            # Its output ends with it, unless something it left behind could not be found.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.silent.wait(), LAST_LINES_S)
            child.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LINES_S):
                while any(_lives(process) for process in doomed):  # noqa: ASYNC110  they are not our children
                    await asyncio.sleep(POLL_S)

    @property
    def alive(self) -> list[Child]:
        return [child for child in self._children if child.exit_code is None]

    async def start(self, command: Command) -> Child:
        log = _open_log(self._logs_dir, command.name)
        loop = asyncio.get_running_loop()
        try:
            _, child = await loop.subprocess_exec(
                lambda: Child(command.name, self._on_line, log),
                *command.arguments,
                stdin=DEVNULL if command.stdin is None else PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                env=dict(command.environment),
                # Ctrl-C reaches a whole process group: these hear of it from here, in the right order.
                start_new_session=True,
                preexec_fn=_end_with_parent if _LIBC is not None else None,
            )
        except OSError as error:
            if log is not None:
                log.close()
            raise Unavailable(f"{command.name} cannot be started: {error}") from error
        self._children.append(child)
        if command.stdin is not None:
            child.write(command.stdin + "\n")
        return child

    async def stop(self, children: Sequence[Child], within_s: float) -> list[Child]:
        """Asks them to end; those that still live after `within_s` are killed, and returned."""
        for child in children:
            child.ask_to_stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                for child in children:
                    await child.ended()
        stubborn = [child for child in children if child.exit_code is None]
        kill_all([child.pid for child in stubborn])
        for child in stubborn:
            await child.ended()
        return stubborn


def kill_all(pids: Sequence[int]) -> list[psutil.Process]:
    """Kills the processes and what they started: descendants, and those whose parent is dead but whose session is not.

    Every child of ours leads a session, and an engine whose client was killed lives on in it for a moment.
    """
    doomed: list[psutil.Process] = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            doomed += psutil.Process(pid).children(recursive=True)
    doomed += [process for process in psutil.process_iter() if process.pid in pids or _session(process.pid) in pids]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return doomed


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: it waits for its parent to hear of its end, and that may be never."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int | None:
    if os.name != "posix":
        return None
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _open_log(folder: Path | None, name: str) -> IO[str] | None:
    if folder is None:
        return None
    path = folder / f"{name}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}") from error
