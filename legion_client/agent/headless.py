"""The agent without a window: from an invite or a former enrolment to the end of the run, until a signal says stop."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from legion.errors import LegionError, ServerUnreachable
from legion.identity import Invite
from legion_client.agent.desk import AgentDesk
from legion_client.agent.host import Host
from legion_client.agent.supervisor import COMMAND
from legion_client.control.server import serve
from legion_client.paths import Home
from legion_client.settings import Settings, read

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


UNATTENDED = "LEGION_UNATTENDED"  # set by whoever runs clients by itself: nobody shares the computer with them
# Settings that say who and where this computer is, or were set by a command: no rules of a volunteer.
NO_RULES = ("name", "listen_host", "listen_port", "modes.", "account.")


async def give(
    home: Home,
    settings: Settings,
    invite: Invite | None,
    engine_command: Sequence[str] = COMMAND,
    *,
    waits: bool = False,
) -> None:
    """Gives this computer to the run: returns when it is over or a signal asked to leave, raises what ended it.

    `waits`: for the server's next run, when it is over.

    Without a window nobody may be at this computer: the rules only hold where the volunteer has chosen some.
    """
    unattended = bool(os.environ.get(UNATTENDED))
    host = Host(
        home,
        settings,
        polite=not unattended and has_rules(home),
        unattended=unattended,
        engine_command=engine_command,
    )
    async with serve(home, AgentDesk(host)):
        ended_by = await _given(host, invite, waits=waits and not unattended)
    if ended_by is not None:  # as itself: the task group of the desk would wrap it
        raise ended_by


async def _given(host: Host, invite: Invite | None, *, waits: bool) -> LegionError | None:
    try:
        with _on_signal(_canceller()):
            await host.enrol(invite)
        with _on_signal(host.quit):
            await host.run(waits=waits)
    except ServerUnreachable as error:
        error.hint = "Check the address and your connection, then run the command again."
        return error
    except LegionError as error:
        return error
    except asyncio.CancelledError:
        if host.enrolment is not None:
            raise
        logger.info("stopped before joining")
    return None


def has_rules(home: Home) -> bool:
    """Whether the volunteer has chosen any, so that all of them hold."""
    return any(not name.startswith(NO_RULES) for name in read(home.settings).chosen)


def _canceller() -> Callable[[str], None]:
    task = asyncio.current_task()
    assert task is not None

    def cancel(reason: str) -> None:
        task.cancel(reason)

    return cancel


@contextmanager
def _on_signal(stop: Callable[[str], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop` in the event loop's thread; a second one does what it always did."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def heard(number: int, _frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        # A signal handler runs between any two instructions: only this call is safe there.
        loop.call_soon_threadsafe(stop, signal.Signals(number).name)

    for number in STOP_SIGNALS:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
