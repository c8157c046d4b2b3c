"""Entry of the engine process: commands in, one session, reports out, an exit code that says how it ended."""

import asyncio
import logging
import os
import signal
import sys

import torch

from legion import logs
from legion.comm.bucket import BURST_S
from legion.errors import EngineDied, LegionError
from legion_client.engine.pipes import Pipes, open_pipes
from legion_client.engine.protocol import (
    Command,
    Failed,
    Finished,
    Left,
    Measure,
    Pause,
    PeersFound,
    Prepare,
    Rates,
    Regroup,
    Resume,
    RoundNews,
    Stop,
    Throttle,
    Train,
    UpdateHere,
)
from legion_client.engine.session import Session
from legion_client.engine.standstill import watched

logger = logging.getLogger(__name__)
GONE = 0  # the agent ended: nobody is left to tell
CARD_FAILED = "If that happens again, restart the computer, or switch the card off: graphics.excluded."
ORPHAN_S = 5.0  # for the step under way, when the agent is gone


def main() -> int:
    """Run until the agent's end of the pipe closes, the run is done, or an error."""
    logs.configure(level=os.environ.get("LEGION_LOG_LEVEL", "info"))
    # The agent decides when to stop. A Ctrl-C in a terminal reaches the whole process group, and a service manager or
    # a system that shuts down tells every process at once: what was learned would be lost.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Not `asyncio.run`: at its end it cancels what gRPC still has to do, and gRPC logs each of that as an error.
    code = asyncio.new_event_loop().run_until_complete(run())
    sys.stderr.flush()
    # The compute thread may be waiting for a device or peer that will never answer.
    os._exit(code)


async def run() -> int:
    pipes = open_pipes()
    session: Session | None = None
    try:
        command = await pipes.next_command()
        if not isinstance(command, Prepare):
            return GONE
        session = Session(command, pipes.report)
        await session.prepare()
        return await serve(pipes, session)
    except Exception as error:  # noqa: BLE001  the top of the engine: reported to the agent, with a traceback if unknown
        return report_failure(pipes, session, error)
    finally:
        if session is not None:
            await session.throttling.end()


async def serve(pipes: Pipes, session: Session) -> int:
    """Train when told to, stop when told to."""
    while isinstance(command := await pipes.next_command(), Pause | Resume | Throttle | Rates | Measure | PeersFound):
        heed(session, command)
    if not isinstance(command, Train):
        pipes.report(Left(step=0))
        return GONE
    training = asyncio.ensure_future(session.train(command))
    listening = asyncio.ensure_future(listen(pipes, session))
    counting = asyncio.ensure_future(session.traffic.run())
    watching = asyncio.ensure_future(watched(session.pace, lambda: session.member, session.network))
    try:
        await asyncio.wait({training, listening, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        if not training.done():  # nobody is left who could end this process
            session.stop(within_s=0.0)
            await asyncio.wait({training}, timeout=ORPHAN_S)
            if not training.done():
                logger.warning("leaving in the middle of a step")
                return GONE
        step = await training
        if listening.done():
            listening.result()
    finally:
        for task in (others := (listening, counting, watching)):
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        session.traffic.tell()
    complete = step == session.steps
    pipes.report(Finished(step=step) if complete else Left(step=step))
    return 0


async def listen(pipes: Pipes, session: Session) -> None:
    """Heed what is said. Returns when the agent is gone; RunError when it says what cannot be read."""
    while (command := await pipes.next_command()) is not None:
        heed(session, command)
    logger.info("the agent is gone")


def heed(session: Session, command: Command) -> None:
    match command:
        case Train():
            session.follow(command)
        case Regroup():
            session.regroup()
        case Stop(reason=reason, within_s=within_s, rests=rests):
            logger.info("stopping reason=%s", reason)
            session.stop(within_s, rests=rests)
        case Pause(reason=reason):
            logger.info("pausing reason=%s", reason)
            session.pause(command)
        case Resume():
            logger.info("resuming")
            session.resume()
        case Throttle():
            logger.info("limits duty=%.2f power=%.2f threads=%s", command.duty, command.power, command.threads)
            session.throttling.obey(command)
        case Rates(upload_bytes_per_s=upload, download_bytes_per_s=download):
            level = logging.INFO if command.burst_s == BURST_S else logging.DEBUG  # else it follows the line's delay
            logger.log(level, "line upload_bytes_per_s=%s download_bytes_per_s=%s", upload, download)
            session.limit_line(command)
        case Measure():
            session.links.measure(command)
        case PeersFound():
            session.links.found(command)
        case RoundNews() | UpdateHere():
            session.rounds.hear(command)
        case Prepare():
            logger.warning("command ignored, it came before kind=%s", command.kind)


def report_failure(pipes: Pipes, session: Session | None, error: Exception) -> int:
    """Say what happened; an error that Legion does not know goes to the log with its traceback."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        error = EngineDied("the model, its gradients and activations do not fit in memory: " + str(error))
    if isinstance(error, torch.AcceleratorError):
        logger.exception("the graphics card failed")
        error = EngineDied(f"the graphics card failed: {str(error).strip().splitlines()[0]}", hint=CARD_FAILED)
    if not isinstance(error, LegionError):
        logger.exception("the engine failed")
        error = EngineDied(f"{type(error).__name__}: {error}")
    member = session.member if session else None
    pipes.report(
        Failed(
            slug=error.slug,
            message=str(error),
            hint=error.hint,
            step=session.steps_done if session else 0,
            lost_peer=member.changes.lost_peer if member else None,
        )
    )
    return error.exit_code
