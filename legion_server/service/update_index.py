"""Which committed round an update belongs to. Records never change: each is read once, and asking costs a look-up.

Anybody with a token may ask for any digest; what that costs must not grow with the log.
"""

import asyncio

from legion_server.domain.rounds import Rounds
from legion_server.store.api import Store

AT_ONCE = 4  # records: one of a hundred clusters may have a megabyte, and others wait while it is decoded


class UpdateIndex:
    """Of the records that are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rounds: dict[str, int] = {}  # by digest
        self._first = 0
        self._until = 0  # the first round that is not in there
        self._reading = asyncio.Lock()

    async def rounds_by_digest(self, rounds: Rounds) -> dict[str, int]:
        """The newest round that names each update, as far as `rounds` is committed. Not to be changed."""
        async with self._reading:
            if rounds.first_record > self._first:
                self._first = rounds.first_record
                self._rounds = {digest: number for digest, number in self._rounds.items() if number >= self._first}
            self._until = max(self._until, self._first)
            while self._until < rounds.committed:
                found = await self._store.records(self._until, AT_ONCE)
                records = [record for record in found if record.round < rounds.committed]
                if not records:
                    break
                self._rounds |= {span.digest: record.round for record in records for span in record.spans}
                self._until = records[-1].round + 1
            return self._rounds
