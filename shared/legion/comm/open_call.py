"""A gRPC call that is kept open between two exchanges."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from legion.errors import PartInvalid
from legion.ids import WorkerId


class OpenCall:
    """A call that stays open for many exchanges, one after the other: opening one costs more than a small part.

    Hold `turn` from an exchange's first try to its last: what comes after it may be waiting for it at the peer.
    """

    def __init__(self, method: Any, metadata: Any, peer: WorkerId) -> None:
        self._method = method
        self._peer = peer
        self._metadata = metadata
        self.turn = asyncio.Lock()
        self._idle: Any = None  # between two exchanges

    @contextlib.asynccontextmanager
    async def exchange(self) -> AsyncIterator[Any]:
        """The call, for one try. Whatever goes wrong ends it, and the next try opens another."""
        call, self._idle = self._idle, None
        if call is None or call.done():
            call = self._method(metadata=self._metadata)
        try:
            yield call
            self._idle = call
        except asyncio.InvalidStateError as error:  # gRPC's, for a write after the end: reading tells what the end was
            await call.read()
            raise PartInvalid(f"{self._peer} ended a call in the middle") from error
        finally:
            if self._idle is None:
                call.cancel()

    def close(self) -> None:
        """The peer waits for nothing more."""
        if self._idle is not None:
            self._idle.cancel()
