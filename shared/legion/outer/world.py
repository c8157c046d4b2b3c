"""What a courier needs of the world: calls to other workers, the coordinator, storage."""

from typing import Protocol

from legion.messages import Member
from legion.outer.arriving import Sources
from legion.outer.blobs import BlobFolder
from legion.outer.handover import Heirs
from legion.rounds import PartKey, RootReport, SpanReport


class Links(Sources, Heirs, Protocol):
    """Calls to workers of other clusters."""

    async def send_part(self, member: Member, key: PartKey, data: bytes) -> None: ...


class Control(Protocol):
    """What goes to the coordinator, and what comes from storage."""

    async def reduced(self, report: SpanReport, blobs: BlobFolder) -> None:
        """The report, and the blob for storage; both arrive in the end, or the round is over. Of an audit: no blob."""

    def applied(self, report: RootReport) -> None: ...

    async def download(self, sha256: str, size_bytes: int) -> bytes:
        """From storage. Unavailable when it is not there (yet)."""
