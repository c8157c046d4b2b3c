"""Everything an admin does is written down, whether it came by page or by program."""

import logging
from collections.abc import Callable

from legion_server.domain.membership import printable
from legion_server.store.audit import AuditStore, Entry

logger = logging.getLogger(__name__)

PAGE = 50  # entries
LONGEST_DETAIL = 4000  # characters


class Audit:
    def __init__(self, store: AuditStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def record(self, action: str, subject: str = "", detail: str = "", *, who: str = "admin") -> None:
        """After the action, by whoever carried it out. `detail` must hold no secret: it is shown and logged."""
        text = printable(detail, LONGEST_DETAIL)
        await self._store.add(self._clock(), who, action, printable(subject, 64), text)
        logger.info("admin action who=%s action=%s subject=%s", who, action, subject)

    async def page(self, before: int | None = None) -> tuple[list[Entry], int | None]:
        """Newest first, and the number to ask for the entries before; None: there are none."""
        found = await self._store.page(before, PAGE + 1)
        return found[:PAGE], found[PAGE - 1].number if len(found) > PAGE else None
