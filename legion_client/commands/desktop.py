"""`legion-client` without `--no-gui`: the window, with the agent in the same process or attached to one that runs.

The tray comes first: what it needs not is imported after it is seen, the agent beside the window's event loop.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from legion.errors import AgentNotRunning, AlreadyRunning, NoDisplay, ProtocolMismatch, Refused, Unusable
from legion_client.control.instance import is_announced
from legion_client.paths import Home

if TYPE_CHECKING:
    from legion_client.control.client import Control
    from legion_client.settings import Settings
    from legion_client.ui.near import Near

NO_QT = "there is no window here: PySide6 is not installed"
NO_QT_HINT = "Install it with pip install 'legion-training[ui]', or use 'legion-client --no-gui'."
NO_LIBRARY_HINT = (
    "On Debian and Ubuntu: 'apt install libegl1 libgl1 libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0'. "
    "Or run 'legion-client --no-gui', which needs no window."
)
ANNOUNCED_S = 5.0  # from an agent's lock to its address, on a computer that has much else to do
AGAIN_S = 0.1


def run(
    home: Home, settings: "Callable[[], Settings]", link: str | None, keep_log: Callable[[], None], *, background: bool
) -> int:
    """Raises the window of an agent that has one, attaches one to an agent that has none, or starts both here.

    `link`: an invite, which is only ever asked about, in the window. `settings` and `keep_log` are called once this
    process is to be the agent. Returns the exit code.
    """
    attached = False
    if is_announced(home.control):
        try:
            asyncio.run(_show(home, link))
            return 0
        except ProtocolMismatch:
            raise
        except (Refused, Unusable):  # by an agent without a window
            attached = True
        except AgentNotRunning:
            attached = False
    if find_spec("PySide6") is None or find_spec("qasync") is None:
        raise Unusable(NO_QT, hint=NO_QT_HINT)
    _require_libraries()
    from legion_client.ui import app
    from legion_client.ui.doorbell import Doorbell

    doorbell = Doorbell()

    def seat() -> AbstractAsyncContextManager["Control | Near"]:
        if attached:
            return far(home, doorbell.ring, link)
        return near(home, settings, doorbell.ring, keep_log, link)

    return app.run(home, seat, background=background, invite=link, doorbell=doorbell, attached=attached)


def _require_libraries() -> None:
    """Qt needs some of the system already when it is imported; NoDisplay where one is missing."""
    try:
        importlib.import_module("legion_client.ui.app")
    except ImportError as error:
        if ".so" not in str(error):
            raise
        raise NoDisplay(f"Qt cannot be loaded: {error}", hint=NO_LIBRARY_HINT) from error


@asynccontextmanager
async def near(
    home: Home,
    settings: "Callable[[], Settings]",
    ring: Callable[[str | None], None],
    keep_log: Callable[[], None],
    link: str | None,
) -> "AsyncIterator[Near]":
    """An agent here; see `hosted`. If another one was a moment faster, its window is raised: AlreadyRunning then."""
    module = await asyncio.to_thread(importlib.import_module, "legion_client.ui.near")
    try:
        async with module.hosted(home, settings, ring, keep_log) as agent:
            yield agent
    except AlreadyRunning:
        await _show_soon(home, link)
        raise


async def _show(home: Home, link: str | None) -> None:
    from legion_client.control.client import Control
    from legion_client.control.messages import Show

    await Control(home).request(Show(invite=link))


async def _show_soon(home: Home, link: str | None) -> None:
    """Of an agent that was started a moment before this one, and has not said yet where it listens."""
    try:
        async with asyncio.timeout(ANNOUNCED_S):
            while not is_announced(home.control):  # noqa: ASYNC110  another process announces it
                await asyncio.sleep(AGAIN_S)
    except TimeoutError as error:
        raise AgentNotRunning(f"an agent holds {home.root} and does not listen") from error
    await _show(home, link)


@asynccontextmanager
async def far(home: Home, ring: Callable[[str | None], None], link: str | None) -> "AsyncIterator[Control]":
    """An agent in another process, which has no window but ours."""
    from legion_client.control.client import Control

    yield Control(home, shown=ring, invite=link)
