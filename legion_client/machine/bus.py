"""A connection to a D-Bus message bus that outlives the bus: opened when first needed, again after it was lost.

jeepney writes and reads the messages. Its own asyncio router is not used: a reply that comes in the moment its caller
gives up ends that router's task, and a bus that hangs while it is greeted leaves the socket open.
"""

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, MatchRule, Message, MessageFlag, MessageType, Parser, new_method_call
from jeepney.auth import BEGIN, Authenticator
from jeepney.bus import get_connectable_addresses
from jeepney.bus_messages import message_bus

from legion.errors import Unavailable

logger = logging.getLogger(__name__)

# What the bus answers if there is no such service or it has no such thing: no failure, it is only not there.
ABSENT = frozenset(
    f"org.freedesktop.DBus.Error.{word}"
    for word in (
        "ServiceUnknown",
        "NameHasNoOwner",
        "UnknownObject",
        "UnknownInterface",
        "UnknownMethod",
        "UnknownProperty",
        "InvalidArgs",  # systemd's and GLib's answer to a property that they do not have
    )
)
MOST_SIGNALS = 64


def session_address(environment: Mapping[str, str] = os.environ) -> str | None:
    """Of the user's bus: where the variable points, or systemd's place for it; None without any."""
    address = environment.get("DBUS_SESSION_BUS_ADDRESS")
    if address:
        return _first(address)
    runtime = environment.get("XDG_RUNTIME_DIR")
    return str(Path(runtime) / "bus") if runtime else None


def system_address(environment: Mapping[str, str] = os.environ) -> str | None:
    return _first(environment.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket")


def _first(address: str) -> str | None:
    try:
        return str(next(get_connectable_addresses(address)))
    except (RuntimeError, ValueError):  # a transport that is no Unix socket, or no address at all
        return None


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of signal of one service; with `about` only those whose first value is that text."""

    sender: str
    interface: str
    member: str
    about: str | None = None

    def rule(self) -> MatchRule:
        rule = MatchRule(type="signal", sender=self.sender, interface=self.interface, member=self.member)
        if self.about is not None:
            rule.add_arg_condition(0, self.about)
        return rule


class Bus:
    """One message bus. Calls never start a service that does not run; each caller sets its own time limit."""

    def __init__(self, find: Callable[[], str | None]) -> None:
        self._find = find
        self._opening = asyncio.Lock()
        self._link: _Link | None = None

    async def call(
        self, address: DBusAddress, method: str, signature: str | None = None, body: tuple[Any, ...] = ()
    ) -> tuple[Any, ...] | None:
        """The answer's values; None if there is no bus, no such service or no such method.

        Raises Unavailable if the service answers with another error, or the bus goes away meanwhile.
        """
        link = await self._linked()
        if link is None:
            return None
        message = new_method_call(address, method, signature, body)
        message.header.flags |= MessageFlag.no_auto_start
        reply = await link.call(message)
        if reply.header.message_type is MessageType.error:
            name = reply.header.fields.get(HeaderFields.error_name, "an error without a name")
            if name in ABSENT:
                return None
            raise Unavailable(f"{address.bus_name} answered {method} with {name}")
        return tuple(reply.body)

    async def property(self, address: DBusAddress, name: str) -> Any | None:
        """Its value without the variant around it; None as in `call`."""
        properties = address.with_interface("org.freedesktop.DBus.Properties")
        answer = await self.call(properties, "Get", "ss", (address.interface, name))
        if answer is None:
            return None
        ((_, value),) = answer
        return value

    @contextlib.asynccontextmanager
    async def signals(self, *wanted: "Signal") -> AsyncIterator["asyncio.Queue[Message | None] | None"]:
        """A queue of the signals that are wanted, and of None when the bus is gone; no queue without a bus."""
        link = await self._linked()
        if link is None:
            yield None
            return
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        listener = ({(signal.interface, signal.member) for signal in wanted}, queue)
        link.listeners.append(listener)
        try:
            for signal in wanted:
                await link.call(message_bus.AddMatch(signal.rule()))
            yield queue
        finally:
            link.listeners.remove(listener)

    def socket(self) -> str | None:
        """Where the bus listens; None if there is no bus."""
        return self._find()

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _linked(self) -> "_Link | None":
        async with self._opening:
            if self._link is not None and self._link.lost:
                await self.close()
            if self._link is None:
                path = self._find()
                if path is None:
                    return None
                self._link = await _open(path)
            return self._link


async def _open(path: str) -> "_Link | None":
    """A link that has said hello; None if nobody listens there."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    async with contextlib.AsyncExitStack() as unless_done:
        unless_done.callback(writer.close)
        for line in (greeting := Authenticator()):
            writer.write(line)
            answer = await reader.read(1024)
            if not answer:
                raise Unavailable(f"the message bus at {path!r} hung up while it was greeted")
            greeting.feed(answer)
        writer.write(BEGIN)
        link = _Link(reader, writer)
        unless_done.push_async_callback(link.close)
        await link.call(message_bus.Hello())
        unless_done.pop_all()
    return link


class _Link:
    """One connection, and the task that hands out what comes in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._serial = 0
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self.listeners: list[tuple[set[tuple[str, str]], asyncio.Queue[Message | None]]] = []
        self._receiver = asyncio.create_task(self._receive(), name="message bus")

    @property
    def lost(self) -> bool:
        return self._receiver.done()

    async def call(self, message: Message) -> Message:
        if self.lost:
            raise Unavailable("the message bus is gone")
        self._serial += 1
        serial = self._serial
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[serial] = waiting
        try:
            self._writer.write(message.serialise(serial))
            return await waiting
        finally:
            self._waiting.pop(serial, None)

    async def close(self) -> None:
        self._receiver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiver
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _receive(self) -> None:
        parser = Parser()
        try:
            while data := await self._reader.read(65536):
                parser.add_data(data)
                while (message := parser.get_next_message()) is not None:
                    self._hand_out(message)
        except (OSError, ValueError, LookupError, struct.error) as error:
            logger.warning("lost the message bus error=%r", error)
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(Unavailable("the message bus is gone"))
            for _, queue in self.listeners:
                queue.put_nowait(None)

    def _hand_out(self, message: Message) -> None:
        waiting = self._waiting.get(message.header.fields.get(HeaderFields.reply_serial, 0))
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(message)
            return
        if message.header.message_type is not MessageType.signal:
            return
        # The bus has compared the sender already; here it has another name than the one that was asked for.
        kind = (message.header.fields.get(HeaderFields.interface), message.header.fields.get(HeaderFields.member))
        for kinds, queue in self.listeners:
            if kind in kinds and queue.qsize() < MOST_SIGNALS:
                queue.put_nowait(message)
