"""Systems of which we only know what psutil knows, as FreeBSD."""

from collections.abc import Mapping

from legion_client.machine.notices import SleptThrough
from legion_client.machine.power import PsutilPower
from legion_client.machine.sensing import Clock
from legion_client.machine.sources import Sources, Unknown


def open_sources(_environment: Mapping[str, str], _clock: Clock) -> Sources:
    return Sources(
        idle=Unknown(),
        power=PsutilPower(),
        heat=Unknown(),
        metered=Unknown(),
        screen=Unknown(),
        game=Unknown(),
        notices=SleptThrough().notices,
    )
