"""`legion-client` without `--no-gui`: the window of the agent that runs, if one does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from legion.errors import AgentNotRunning, ProtocolMismatch, Refused, Unusable
from legion.identity import Invite
from legion_client.control.client import Control
from legion_client.control.messages import Show
from legion_client.paths import Home
from legion_client.settings import Settings

NO_QT = "there is no window here: PySide6 is not installed"
NO_QT_HINT = "Install it with pip install 'legion-training[ui]', or use 'legion-client --no-gui'."


def run(home: Home, settings: Settings, invite: Invite | None, *, background: bool) -> int:
    """Raises the window of an agent that has one, attaches one to an agent that has none."""
    try:
        asyncio.run(Control(home).request(Show(invite=None if invite is None else str(invite))))
    except ProtocolMismatch:
        raise
    except (Refused, Unusable):  # by an agent without a window
        return _attached(home, background=background)
    except AgentNotRunning as error:
        raise Unusable("the desktop app is not part of this version: use 'legion-client --no-gui'", hint="") from error
    return 0


def _attached(home: Home, *, background: bool) -> int:
    if find_spec("PySide6") is None or find_spec("qasync") is None:
        raise Unusable(NO_QT, hint=NO_QT_HINT)
    from legion_client.ui import app

    @asynccontextmanager
    async def seat() -> AsyncIterator[Control]:
        yield Control(home)

    return app.run(home, seat, background=background)
