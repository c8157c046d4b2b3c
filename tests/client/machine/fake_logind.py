"""logind as far as Legion asks it: announces, gives delay locks, and really waits for them."""

import os
import select
from collections.abc import Callable

from tests.client.machine.fake_service import FakeService, Values

LOGIND, MANAGER, PATH = "org.freedesktop.login1", "org.freedesktop.login1.Manager", "/org/freedesktop/login1"
Serve = Callable[..., FakeService]


class Locks:
    """Pipes as logind gives them: as long as somebody holds the writing end, its reading end does not end."""

    def __init__(self) -> None:
        self._readers: list[int] = []
        self._writer: int | None = None

    def give(self) -> Values:
        self._forget_writer()
        reader, self._writer = os.pipe()
        self._readers.append(reader)
        return Values("h", (self._writer,))

    @property
    def given(self) -> int:
        return len(self._readers)

    @property
    def held(self) -> list[bool]:
        self._forget_writer()
        return [not select.select([reader], [], [], 0)[0] for reader in self._readers]

    def close(self) -> None:
        self._forget_writer()
        for reader in self._readers:
            os.close(reader)

    def _forget_writer(self) -> None:
        """Its copy in this process, once the message with it has left."""
        writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)


def logind(serve: Serve, locks: Locks) -> FakeService:
    service = serve(LOGIND).on(MANAGER, "Inhibit", locks.give)
    return service.property(MANAGER, "InhibitDelayMaxUSec", "t", 5_000_000)


def announce(service: FakeService, member: str, begins: bool) -> None:
    service.emit(PATH, MANAGER, member, "b", begins)
