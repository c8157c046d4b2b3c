"""What Linux tells: D-Bus, X11, /sys."""

from collections.abc import Mapping
from functools import partial

from legion_client.machine.bus import Bus, session_address, system_address
from legion_client.machine.games_linux import GameMode, X11Screen
from legion_client.machine.heat import LinuxHeat
from legion_client.machine.idle_linux import FirstThatKnows, LogindIdle, MutterIdle, OfTheSeat, ScreenSaverIdle, X11Idle
from legion_client.machine.network_linux import MeteredConnection
from legion_client.machine.notices_linux import LogindNotices
from legion_client.machine.power import LinuxPower
from legion_client.machine.sensing import Clock
from legion_client.machine.sources import Sources
from legion_client.machine.x11 import Display


def open_sources(environment: Mapping[str, str], clock: Clock) -> Sources:
    """Connects to nothing yet. `clock` paces them; logind's times are compared with the system's own clock."""
    session = Bus(partial(session_address, environment))
    system = Bus(partial(system_address, environment))
    display = Display(environment)

    async def close() -> None:
        await session.close()
        await system.close()
        await display.close()

    ours = FirstThatKnows(
        [
            ("org.gnome.Mutter.IdleMonitor", MutterIdle(session)),
            ("org.freedesktop.ScreenSaver", ScreenSaverIdle(session, clock)),
            ("X11", X11Idle(display)),
            ("logind", LogindIdle(system)),
        ],
        clock,
    )
    return Sources(
        idle=OfTheSeat(system, ours, clock),
        power=LinuxPower(clock=clock),
        heat=LinuxHeat(clock=clock),
        metered=MeteredConnection(system),
        screen=X11Screen(display),
        game=GameMode(session),
        notices=LogindNotices(system, clock).notices,
        close=close,
    )
