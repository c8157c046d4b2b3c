"""`legion-client` without `--no-gui`: the window, with the agent in the same process or attached to one that runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec

from legion.errors import AgentNotRunning, ProtocolMismatch, Refused, Unusable
from legion.identity import Invite
from legion_client.agent.desk import AgentDesk
from legion_client.agent.enrolment import Enrolment
from legion_client.agent.host import Host
from legion_client.control.client import Control
from legion_client.control.desk import Desk
from legion_client.control.messages import Show
from legion_client.control.server import serve
from legion_client.paths import Home
from legion_client.settings import Settings

NO_QT = "there is no window here: PySide6 is not installed"
NO_QT_HINT = "Install it with pip install 'legion-training[ui]', or use 'legion-client --no-gui'."


def run(
    home: Home, settings: Settings, invite: Invite | None, keep_log: Callable[[], None], *, background: bool
) -> int:
    """Raises the window of an agent that has one, attaches one to an agent that has none, or starts both here.

    An invite is only ever asked about, in the window. `keep_log`: called once this process is to be the agent. Returns
    the exit code.
    """
    link = None if invite is None else str(invite)
    try:
        asyncio.run(Control(home).request(Show(invite=link)))
        return 0
    except ProtocolMismatch:
        raise
    except (Refused, Unusable):  # by an agent without a window
        attached = True
    except AgentNotRunning:
        attached = False
    if find_spec("PySide6") is None or find_spec("qasync") is None:
        raise Unusable(NO_QT, hint=NO_QT_HINT)
    from legion_client.ui import app
    from legion_client.ui.doorbell import Doorbell
    from legion_client.ui.near import Near

    if attached:
        return app.run(home, lambda: _far(home), background=background, invite=link, attached=True)
    doorbell = Doorbell()

    @asynccontextmanager
    async def near() -> AsyncIterator[Near]:
        async with hosted(home, settings, doorbell.ring, keep_log) as desk:
            yield Near(desk)

    return app.run(home, near, background=background, invite=link, doorbell=doorbell)


@asynccontextmanager
async def _far(home: Home) -> AsyncIterator[Control]:
    yield Control(home)


@asynccontextmanager
async def hosted(
    home: Home, settings: Settings, show: Callable[[str | None], None], keep_log: Callable[[], None] = lambda: None
) -> AsyncIterator[Desk]:
    """An agent in this process for the time of the block; it stays between runs and is ended in good order."""
    keep_log()  # first of all, and here: a home that takes nothing is told of in the window
    host = Host(home, settings)
    host.enrolment = Enrolment.load(home.identity)
    desk = AgentDesk(host, show)
    async with serve(home, desk):
        running = asyncio.create_task(host.run(stays=True), name="agent")
        try:
            yield desk
        finally:
            host.quit("the window's program ends")
            await running
