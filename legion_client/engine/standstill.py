"""A compute thread that hangs ends its engine: its peers go on without it, and the agent starts another."""

import asyncio
import faulthandler
import logging
import time
from collections.abc import Callable
from typing import NoReturn

from legion.comm.member import Member
from legion.comm.network import PeerNetwork
from legion.errors import EngineDied
from legion.train import standstill
from legion.train.pace import Pace
from legion.train.standstill import Progress, Standstill

logger = logging.getLogger(__name__)
HINT = "If that happens again, restart the computer, or switch the card off: graphics.excluded."


async def watched(pace: Pace, member: Callable[[], Member | None], network: PeerNetwork) -> NoReturn:
    """Until cancelled; EngineDied once the compute thread hangs, after a farewell to those who watch us."""
    state = Standstill(time.monotonic())
    while not state.hangs:
        await asyncio.sleep(standstill.LOOK_S)
        state = state.looked(time.monotonic(), progress_of(pace, member()))
    usual_s = state.seen.usual_s
    usual = "" if usual_s is None else f"; a micro-batch usually takes {usual_s:.1f} s"
    error = EngineDied(f"the computation hangs: nothing has moved for {state.still_s:.0f} s{usual}", hint=HINT)
    logger.error("%s", error)
    faulthandler.dump_traceback()  # to the log: where it hangs
    await network.leave(str(error))
    raise error


def progress_of(pace: Pace, member: Member | None) -> Progress:
    begun, computes, usual_s = pace.micro_batches
    if member is None:
        return Progress()
    return Progress(begun, member.usage.crossings, computes and not member.usage.waiting, usual_s)
