"""`legion-client --no-gui`: the agent as a service, until the run is over, the time is up, or somebody says stop."""

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from legion.errors import AgentNotRunning, LegionError
from legion.identity import Invite
from legion_client.agent.headless import give
from legion_client.control.client import Control, Lost
from legion_client.control.messages import Happening, Join, Status
from legion_client.control.systemd import READY, STOPPING, Teller, keep_alive, notifier, tell_status, watchdog_s
from legion_client.paths import Home
from legion_client.settings import Settings

logger = logging.getLogger(__name__)

FINISHED = "finished"  # the reason of an agent that was told to finish, and has


async def run(
    home: Home,
    settings: Settings,
    invite: Invite | None,
    keep_log: Callable[[], None],
    *,
    exit_when_done: bool,
    max_hours: float | None,
) -> None:
    """Returns when it is over or was asked to end, raises what ended it. With an agent there already, it gets the
    invite. `keep_log`: called once this process is to be the agent, whose log lies in the home."""
    if invite is not None and await forwarded(home, invite):
        return
    keep_log()
    await attended(
        give(home, settings, invite, waits=not exit_when_done),
        Control(home),
        notifier(),
        watched_s=watchdog_s(),
        exit_when_done=exit_when_done,
        max_hours=max_hours,
    )


async def forwarded(home: Home, invite: Invite) -> bool:
    """Whether an agent runs that has taken the invite; raises what it refused with."""
    try:
        await Control(home).request(Join(invite=str(invite)))
    except AgentNotRunning:
        return False
    logger.info("the agent that runs already has joined %s:%d", invite.host, invite.port)
    return True


async def attended(
    giving: Awaitable[None],
    control: Control,
    teller: Teller | None,
    *,
    watched_s: float | None = None,
    exit_when_done: bool = False,
    max_hours: float | None = None,
) -> None:
    """`giving`, with all that looks after it for as long as it lasts."""
    tasks: list[asyncio.Task[None]] = []
    if teller is not None:
        teller.tell(READY, "STATUS=Starting")
        tasks.append(asyncio.create_task(tell_status(teller, control.follow()), name="systemd status"))
        if watched_s is not None:
            tasks.append(asyncio.create_task(keep_alive(teller, watched_s), name="systemd watchdog"))
    if exit_when_done:
        tasks.append(asyncio.create_task(_end_when_done(control.follow()), name="exit when done"))
    if max_hours is not None:
        tasks.append(asyncio.create_task(_end_after(max_hours * 3600), name="max hours"))
    try:
        await giving
    finally:
        if teller is not None:
            teller.tell(STOPPING, "STATUS=Ending")
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, LegionError):
            logger.warning("a companion of the agent ended reason=%s", outcome)
        elif isinstance(outcome, Exception):
            raise outcome


async def _end_when_done(changes: AsyncGenerator[Status | Happening | Lost, None]) -> None:
    async with aclosing(changes):
        async for change in changes:
            if isinstance(change, Status) and is_done(change):
                logger.info("done, ending headline=%s", change.headline)
                signal.raise_signal(signal.SIGTERM)
                return


def is_done(status: Status) -> bool:
    """Whether what `finish` asked for has happened, or the run has nothing left to do."""
    over = status.run is not None and status.run.phase in ("complete", "failed", "stopped")
    return over or any(why.slug == FINISHED for why in status.reasons)


async def _end_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    logger.info("the time is up, ending hours=%.2f", seconds / 3600)
    # The way that a person takes: the round's work is kept, the server is told.
    signal.raise_signal(signal.SIGTERM)
