"""The engine process: started, spoken to, and ended here and nowhere else.

Invariant: when `running` is left, by whatever way, the process is gone.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil
from pydantic import ValidationError

from legion.errors import EngineDied, StorageFailed
from legion_client.engine.protocol import PULSE_S, REPORTS, Command, Pulse, Report
from legion_client.machine.probe import physical_cores

logger = logging.getLogger(__name__)

# -P: what lies in the folder that we were started in must not be imported, be it an accident or a plant.
COMMAND = (sys.executable, "-P", "-m", "legion_client.engine")
LINE_BYTES = 64 * 2**20  # the shape of a large model and a long manifest are one line each
CLOSE_S = 5.0  # for the engine to notice that its input ended
MISSED_PULSES = 12  # then it hangs; a loop that a large model keeps busy for a while is late, not dead
LOWEST_NICE = 19
CARDS = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES")
LAST_WORDS = 12  # lines of its log that a death quotes


def environment(base: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The engine's variables: `base`, with `variables` and defaults for what the volunteer has not set.

    Which cards it sees is the policy's to say, which knows of none but those that the volunteer's mask leaves.
    """
    defaults = {
        "OMP_NUM_THREADS": str(physical_cores()),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    decided = {name: variables[name] for name in CARDS if name in variables}
    return defaults | dict(variables) | dict(base) | decided


class Engine:
    """A running engine: commands in, reports out."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        command: Sequence[str],
        log_file: Path,
        variables: Mapping[str, str] | None = None,
        *,
        lowest_priority: bool = False,
    ) -> AsyncIterator["Engine"]:
        """An engine for the time of the block, with `variables` in its environment.

        Its standard error goes to ours and to `log_file`.
        """
        log = _open_log(log_file)
        with log:
            process = await _start(command, variables or {})
            if lowest_priority:
                _give_way(process.pid)
            engine = cls(process)
            pump = asyncio.create_task(engine._pump_log(log), name="engine log")
            try:
                yield engine
            finally:
                await engine._close()
                # Whatever the engine started may still hold its error stream open; it is not waited for.
                await asyncio.wait([pump], timeout=1.0)
                pump.cancel()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._last_words)

    async def send(self, command: Command) -> None:
        """One command. A dead engine is not reported here but by the end of `reports`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(command.model_dump_json().encode() + b"\n")
            await self._process.stdin.drain()

    async def reports(self) -> AsyncIterator[Report]:
        """What the engine says, until it closes its output. EngineDied for an object that is no report.

        And for silence, once it has let its pulse be heard.
        """
        assert self._process.stdout is not None
        alive = False
        while line := await self._next_line(self._process.stdout, alive=alive):
            if not line.lstrip().startswith(b"{"):
                # A library printed something: not ours, and no reason to end a run.
                logger.warning("engine printed text=%r", line.decode(errors="replace").rstrip())
                continue
            try:
                report = REPORTS.validate_json(line)
            except ValidationError as error:
                raise EngineDied(f"the engine said what this agent does not understand: {line[:200]!r}") from error
            alive = alive or isinstance(report, Pulse)
            yield report

    async def death(self) -> EngineDied:
        """How the process ended, once it has, with the end of its log."""
        code = await self._process.wait()
        if code < 0:
            name = signal_name(-code)
            how = f"the engine was killed by {name}"
            if name == "SIGKILL":
                how += " (often the system's answer when memory runs out)"
        else:
            how = f"the engine ended with exit code {code}"
        return EngineDied(how, log=self.last_words)

    def kill(self) -> None:
        """At once, without asking."""
        if self._process.returncode is None:
            self._process.kill()

    async def _next_line(self, stream: asyncio.StreamReader, *, alive: bool) -> bytes:
        """An agent that was stopped itself takes that for one missed pulse at most: time is counted in pieces."""
        for _ in range(MISSED_PULSES):
            try:
                async with asyncio.timeout(PULSE_S if alive else None):
                    return await self._read_line(stream)
            except TimeoutError:
                continue
        silent_s = MISSED_PULSES * PULSE_S
        raise EngineDied(f"the engine hangs: nothing was heard of it for {silent_s:.0f} s", log=self.last_words)

    async def _read_line(self, stream: asyncio.StreamReader) -> bytes:
        try:
            return await stream.readline()
        except ValueError as error:
            raise EngineDied(f"the engine said a line of more than {LINE_BYTES} bytes") from error

    async def _pump_log(self, log: IO[str]) -> None:
        assert self._process.stderr is not None
        sinks = [log, sys.stderr]
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace").rstrip("\n")
            self._last_words.append(text)
            sinks = [sink for sink in sinks if _append(sink, text)]

    async def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._process.wait()
        except TimeoutError:
            logger.warning("engine did not end with its input pid=%d waited_s=%.0f", self.pid, CLOSE_S)
        finally:  # also when we are cancelled once more while it is waited for
            self.kill()
            await self._process.wait()


async def _start(command: Sequence[str], variables: Mapping[str, str]) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=LINE_BYTES,
            env=environment(os.environ, variables),
            # Ctrl-C in a terminal reaches the whole process group: the engine hears of it from the agent instead. The
            # session stays the agent's, so that who ends the agent by force can find the engine too.
            process_group=0 if os.name == "posix" else None,
        )
    except OSError as error:
        raise EngineDied(f"the engine cannot be started: {error}") from error


def _give_way(pid: int) -> None:
    """Everything else on this computer comes first: processor and disk. Threads that it starts from now on inherit it.

    What the system does not allow is not needed either.
    """
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if sys.platform == "win32":
            process.nice(psutil.IDLE_PRIORITY_CLASS)
            process.ionice(psutil.IOPRIO_VERYLOW)
            return
        process.nice(LOWEST_NICE)
        if sys.platform == "linux":
            process.ionice(psutil.IOPRIO_CLASS_IDLE)


def signal_name(number: int) -> str:
    """As in `kill -l`, for people."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _append(sink: IO[str], text: str) -> bool:
    """Whether the sink takes lines. A full disk must not stop the pump: the engine would block on its pipe."""
    try:
        sink.write(text + "\n")
        sink.flush()
    except OSError as error:
        logger.warning("engine log is kept no longer sink=%s reason=%s", sink.name, error.strerror)
        return False
    return True


def _open_log(path: Path) -> IO[str]:
    """The log of this start; the one before is kept beside it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(path.with_suffix(".previous.log"))
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror}") from error
