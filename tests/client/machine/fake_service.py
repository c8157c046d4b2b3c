"""A D-Bus service that a test scripts: values, errors, silence. It runs in a thread of its own, as services do."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, prep_socket

LOOK_S = 0.01


@dataclass(frozen=True)
class Values:
    signature: str
    body: tuple[Any, ...]


@dataclass(frozen=True)
class Refusal:
    error: str


SILENCE = None
Answer = Values | Refusal | None


class FakeService:
    """Answers method calls by "interface.member" and properties by "interface:property"; `asked` lists those calls."""

    def __init__(self, socket: str, name: str) -> None:
        self.asked: list[str] = []
        self._answers: dict[str, Answer | Callable[[], Answer]] = {}
        self._name = name
        self._connection = DBusConnection(prep_socket(socket, enable_fds=True), enable_fds=True)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def method(self, member: str, answer: Answer | Callable[[], Answer]) -> Self:
        """On the interface that is called as the service is."""
        self._answers[f"{self._name}.{member}"] = answer
        return self

    def on(self, interface: str, member: str, answer: Answer | Callable[[], Answer]) -> Self:
        self._answers[f"{interface}.{member}"] = answer
        return self

    def property(self, interface: str, name: str, signature: str, value: Any) -> Self:
        self._answers[f"{interface}:{name}"] = Values("v", ((signature, value),))
        return self

    def at(self, path: str, interface: str, name: str, signature: str, value: Any) -> Self:
        """A property of one object only."""
        self._answers[f"{path} {interface}:{name}"] = Values("v", ((signature, value),))
        return self

    def answer_property(self, interface: str, name: str, answer: Answer) -> Self:
        self._answers[f"{interface}:{name}"] = answer
        return self

    def emit(self, path: str, interface: str, member: str, signature: str, *body: Any) -> None:
        self._connection.send(new_signal(DBusAddress(path, interface=interface), member, signature, body))

    def stop(self) -> None:
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            self._connection.close()

    def __enter__(self) -> Self:
        self._connection.send_and_get_reply(message_bus.RequestName(self._name))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                message = self._connection.receive(timeout=LOOK_S)
            except TimeoutError:
                continue
            except (ConnectionError, OSError):  # the bus was killed
                return
            if message.header.message_type is MessageType.method_call:
                self._reply(message)

    def _reply(self, message: Message) -> None:
        fields = message.header.fields
        what = f"{fields[HeaderFields.interface]}.{fields[HeaderFields.member]}"
        if what == "org.freedesktop.DBus.Properties.Get":
            what = ":".join(message.body)
        self.asked.append(what)
        absent = Refusal("org.freedesktop.DBus.Error.UnknownMethod")
        answer = self._answers.get(f"{fields[HeaderFields.path]} {what}", self._answers.get(what, absent))
        if callable(answer):
            answer = answer()
        if isinstance(answer, Values):
            self._connection.send(new_method_return(message, answer.signature, answer.body))
        elif isinstance(answer, Refusal):
            self._connection.send(new_error(message, answer.error))
