"""What a member tells of a plan that cannot go on: at once, and again when more members turn out to be gone."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Final

from legion.ids import WorkerId
from legion.messages import Member, Plan
from legion_client.engine.protocol import PlanBroken
from legion_client.engine.speaker import Report

logger = logging.getLogger(__name__)
LOOK_S: Final = 2.0  # for an answer; a computer that is there refuses at once, and one that is not says nothing


@contextlib.asynccontextmanager
async def telling_broken(report: Report, told: PlanBroken, me: WorkerId, plan: Plan) -> AsyncIterator[None]:
    """`told` now, and with those who are gone, for whose word nobody is to wait, as long as the block runs."""
    report(told)

    async def look() -> None:
        gone = await absent(member for member in plan.members if member.worker_id != me)
        if set(gone) - {told.lost_peer}:
            logger.warning("more members gone workers=%s", " ".join(gone))
            report(told.model_copy(update={"broken": told.broken.model_copy(update={"gone": gone})}))

    looking = asyncio.create_task(look(), name="who is gone")
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def absent(members: Iterable[Member]) -> tuple[WorkerId, ...]:
    """Where nobody listens any more. Silence proves nothing: who does not answer is not among them."""
    asked = list(members)
    found = await asyncio.gather(*map(_is_refused, asked))
    return tuple(member.worker_id for member, refused in zip(asked, found, strict=True) if refused)


async def _is_refused(member: Member) -> bool:
    try:
        async with asyncio.timeout(LOOK_S):
            _, writer = await asyncio.open_connection(member.endpoint.host, member.endpoint.port)
            writer.close()
            await writer.wait_closed()
    except ConnectionRefusedError:
        return True
    except OSError:  # TimeoutError among them
        return False
    return False
