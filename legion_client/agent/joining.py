"""The way into a run: by what is remembered, or by an invite."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from legion.errors import LegionError, Refused, Unusable, WorkerRevoked
from legion.identity import Invite, same_authority
from legion.messages import Hardware
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.enrolment import Enrolment

logger = logging.getLogger(__name__)


async def join(folder: Path, invite: Invite | None, name: str, hardware: Callable[[], Hardware]) -> Enrolment:
    """The enrolment in `folder`, made with `invite` if there is none yet, or if the server revoked the one there is.

    `hardware` is asked in a thread, and only for a new enrolment.

    Raises Refused when the invite is of another server than the one this folder is enrolled with, Unusable when there
    is neither enrolment nor invite, WorkerRevoked when the invite was used before the revocation.
    """
    known = Enrolment.load(folder)
    if known is None:
        if invite is None:
            raise Unusable("this computer has not joined a server yet", hint="Pass an invite: --join FILE.")
        return await _enrolled(folder, invite, name, hardware)
    if invite is None:
        return known
    if not same_authority(known.identity.authority_pem, invite.authority_sha256):
        raise Refused(
            f"this computer belongs to {known.base_url}; the invite is of another server, {invite.base_url}",
            hint=f"Start without --join, use another --home, or remove {folder} to leave the old server for good.",
        )
    if known.base_url != invite.base_url:
        # The same authority at another address: the server moved.
        known = replace(known, base_url=invite.base_url)
        known.save(folder)
    if await _is_revoked(known):
        return await _enrolled(folder, invite, name, hardware)
    logger.info("already enrolled, the invite was not used worker=%s server=%s", known.worker_id, known.base_url)
    return known


async def _is_revoked(known: Enrolment) -> bool:
    """Whether the server says so; whatever else it or the network says is for the agent, which tries again."""
    async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as server:
        try:
            await server.config()
        except WorkerRevoked:
            return True
        except LegionError as error:
            logger.info("server could not be asked about the enrolment reason=%s", error)
    return False


async def _enrolled(folder: Path, invite: Invite, name: str, hardware: Callable[[], Hardware]) -> Enrolment:
    from legion_client.agent.enrolling import enrol  # noqa: PLC0415  cryptography: 10 MB, once in a lifetime

    return await enrol(folder, invite, name, hardware)
