"""systemd-logind announces sleep and shutdown, and waits some seconds for those who hold an inhibitor lock.

https://systemd.io/INHIBITOR_LOCKS
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator

from jeepney import HeaderFields, Message, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, prep_socket

from legion.errors import Unavailable
from legion_client.machine.bus import Bus, Signal
from legion_client.machine.idle_linux import LOGIND
from legion_client.machine.notices import Coming, Notice
from legion_client.machine.sensing import FAILURES, LIMIT_S, Clock, Patience, in_words

SLEEP, SHUTDOWN = "PrepareForSleep", "PrepareForShutdown"
WANTED = (
    Signal(LOGIND.bus_name, LOGIND.interface, SLEEP),
    Signal(LOGIND.bus_name, LOGIND.interface, SHUTDOWN),
    Signal("org.freedesktop.DBus", "org.freedesktop.DBus", "NameOwnerChanged", about=LOGIND.bus_name),
)
LOCK = ("sleep:shutdown", "Legion", "The contribution of this round is being saved", "delay")
# Lost with the bus, which does not happen to a system in use; sooner only costs.
LISTEN_AGAIN_S = 60.0


class LogindNotices:
    """Holds a delay lock all the time; a notice lets it go when its receiver is ready, and it is taken again later."""

    def __init__(self, system: Bus, clock: Clock = time.monotonic, listen_again_s: float = LISTEN_AGAIN_S) -> None:
        self._system = system
        self._listen_again_s = listen_again_s
        self._patience = Patience("sleep and shutdown", clock)
        self._lock = Lock()

    async def notices(self) -> AsyncIterator[Notice]:
        """For ever. Without a bus or logind there are none, until there are."""
        while True:
            try:
                async for notice in self._listen():
                    yield notice
            except FAILURES as error:
                self._patience.failed(in_words(error))
            finally:
                self._lock.release()
            await asyncio.sleep(self._listen_again_s)

    async def _listen(self) -> AsyncIterator[Notice]:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(LIMIT_S):
                queue = await stack.enter_async_context(self._system.signals(*WANTED))
            if queue is None:
                return
            within_s = await self._take_lock()
            self._patience.worked()
            while (message := await queue.get()) is not None:
                coming = announced(message)
                if coming is None or coming is Coming.AWAKE:
                    within_s = await self._take_lock()
                if coming is not None:
                    yield Notice(coming, 0.0 if coming is Coming.AWAKE else within_s, self._lock.release)

    async def _take_lock(self) -> float | None:
        """How long logind then waits for us; 0 if it gives no lock, as to remote sessions."""
        path = self._system.socket()
        try:
            async with asyncio.timeout(LIMIT_S):
                wait_us = await self._system.property(LOGIND, "InhibitDelayMaxUSec")
                if wait_us is None or path is None:
                    return 0.0
                await self._lock.take(path)
        except FAILURES as error:
            self._patience.failed(in_words(error))
            return 0.0
        return int(wait_us) / 1e6


def announced(message: Message) -> Coming | None:
    """What a signal of logind means; None for its own restart, after which it knows of no lock."""
    member = message.header.fields.get(HeaderFields.member)
    if member not in (SLEEP, SHUTDOWN):
        return None
    if not message.body[0]:
        return Coming.AWAKE
    return Coming.SLEEP if member == SLEEP else Coming.SHUTDOWN


class Lock:
    """A delay lock of logind: an open file, released by closing it."""

    def __init__(self) -> None:
        self._file: int | None = None

    async def take(self, socket: str) -> None:
        """Over a connection of its own and in a thread: asyncio's streams cannot receive a file."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[int] = loop.create_future()

        def deliver(file: int | None, error: BaseException | None) -> None:
            if taken.done() and file is not None:  # we were cut off
                os.close(file)
            elif not taken.done() and error is not None:
                taken.set_exception(error)
            elif not taken.done() and file is not None:
                taken.set_result(file)

        def work() -> None:
            file, error = _inhibit(socket)
            try:
                loop.call_soon_threadsafe(deliver, file, error)
            except RuntimeError:  # the loop is closed, the program ends
                if file is not None:
                    os.close(file)

        threading.Thread(target=work, name="legion-inhibit", daemon=True).start()
        file = await taken
        self.release()
        self._file = file

    def release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _inhibit(socket: str) -> tuple[int | None, BaseException | None]:
    try:
        connection = DBusConnection(prep_socket(socket, enable_fds=True, timeout=LIMIT_S), enable_fds=True)
        with connection:
            reply = connection.send_and_get_reply(new_method_call(LOGIND, "Inhibit", "ssss", LOCK), timeout=LIMIT_S)
        if reply.header.message_type is MessageType.error:
            name = reply.header.fields.get(HeaderFields.error_name)
            return None, Unavailable(f"logind gives no inhibitor lock: {name}")
        return int(reply.body[0].to_raw_fd()), None
    except BaseException as error:  # noqa: BLE001  top of a thread: carried to whoever awaits it
        return None, error
