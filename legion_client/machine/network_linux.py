"""Whether the connection costs by volume, as NetworkManager knows or guesses (a phone's hotspot)."""

from jeepney import DBusAddress

from legion_client.machine.bus import Bus

NETWORK_MANAGER = DBusAddress(
    "/org/freedesktop/NetworkManager",
    bus_name="org.freedesktop.NetworkManager",
    interface="org.freedesktop.NetworkManager",
)
# NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed no.
METERED = {1: True, 2: False, 3: True, 4: False}


class MeteredConnection:
    def __init__(self, system: Bus) -> None:
        self._system = system

    async def read(self) -> bool | None:
        value = await self._system.property(NETWORK_MANAGER, "Metered")
        return None if value is None else METERED.get(int(value))
