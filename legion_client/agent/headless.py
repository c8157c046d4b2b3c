"""The agent without a window: from an invite or a former enrolment to the end of the run, until a signal says stop."""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from legion.errors import ServerUnreachable
from legion.identity import Invite
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import join
from legion_client.agent.service import Agent
from legion_client.agent.supervisor import COMMAND
from legion_client.machine.probe import hardware
from legion_client.paths import Home
from legion_client.settings import Settings

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def give(home: Home, settings: Settings, invite: Invite | None, engine_command: Sequence[str] = COMMAND) -> None:
    """Gives this computer to the run: returns when it is over or a signal asked to leave, raises what ended it."""
    with _on_signal(_canceller()):
        try:
            enrolment = await join(home.identity, invite, settings.name, hardware(home.root))
        except ServerUnreachable as error:
            error.hint = "Check the address and your connection, then run the command again."
            raise
        except asyncio.CancelledError:
            logger.info("stopped before joining")
            return
    async with Coordinator(enrolment.base_url, enrolment.context, enrolment.worker_id, enrolment.token) as server:
        agent = Agent(server, enrolment, home, settings, engine_command)
        with _on_signal(agent.stop):
            await agent.run()


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
