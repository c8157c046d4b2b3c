"""What covers the screen and which games run, on Linux.

Wayland tells no program what another shows. There a game is known by GameMode, which Steam, Lutris and others start.
"""

from jeepney import DBusAddress

from legion_client.machine.bus import Bus
from legion_client.machine.screen import ScreenUse
from legion_client.machine.x11 import Display

GAME_MODE = DBusAddress(
    "/com/feralinteractive/GameMode",
    bus_name="com.feralinteractive.GameMode",
    interface="com.feralinteractive.GameMode",
)


class GameMode:
    """None as long as GameMode does not run: it is started by the first game, never by us."""

    def __init__(self, session: Bus) -> None:
        self._session = session

    async def read(self) -> bool | None:
        clients = await self._session.property(GAME_MODE, "ClientCount")
        return None if clients is None else int(clients) > 0


class X11Screen:
    def __init__(self, display: Display) -> None:
        self._display = display

    async def read(self) -> ScreenUse | None:
        return ScreenUse(full_screen=await self._display.full_screen())
