"""The server name in a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), from as many bytes as have come. Pure.

A relay reads this and nothing else of what it carries. The bytes are anybody's: every length is checked before it is
used, and a hello is refused rather than guessed at.
"""

import re
from dataclasses import dataclass

MOST_BYTES = 16_384  # of a hello with its record headers; with post-quantum keys it has about 2,000
_RECORD_HEADER, _HANDSHAKE_HEADER = 5, 4
_MOST_RECORD = 16_384
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0
_NAME = re.compile(rb"[a-z0-9_.-]{1,253}")


@dataclass(frozen=True, slots=True)
class Named:
    """A whole hello that asks for this name, in lower case."""

    name: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """So far it may become one."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Whatever comes, it will be no hello that names somebody."""

    why: str


Hello = Named | Unfinished | Malformed


class _Wrong(Exception):
    """What is wrong, for Malformed."""


class _Bytes:
    """A cursor that never reads beyond its end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _Wrong(f"{self._what} is shorter than it says")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, length_size: int, what: str) -> "_Bytes":
        return _Bytes(self.take(self.number(length_size)), what)

    def finished(self) -> None:
        if self.left:
            raise _Wrong(f"{self._what} is longer than it says")


def parse(data: bytes) -> Hello:
    """What the first bytes of a connection are. Bytes behind a whole hello do not matter."""
    try:
        body = _handshake(data[:MOST_BYTES])
        if body is not None:
            return Named(_server_name(_Bytes(body, "the hello")))
    except _Wrong as wrong:
        return Malformed(str(wrong))
    return Unfinished() if len(data) < MOST_BYTES else Malformed(f"it has more than {MOST_BYTES} bytes")


def _handshake(data: bytes) -> bytes | None:
    """The body of the ClientHello, out of one record or several; None: not all of it is here."""
    body, at = b"", 0
    while len(data) > at:
        header = data[at : at + _RECORD_HEADER]
        if header[0] != _HANDSHAKE or (len(header) > 1 and header[1] != 3):
            raise _Wrong("it is no TLS handshake")
        if len(header) < _RECORD_HEADER:
            return None
        size = int.from_bytes(header[3:])
        if not 0 < size <= _MOST_RECORD:
            raise _Wrong("a record has an impossible length")
        at += _RECORD_HEADER
        body += data[at : at + size]
        at += size
        if body[:1] not in (b"", bytes([_CLIENT_HELLO])):
            raise _Wrong("the handshake does not begin with a ClientHello")
        if len(body) >= _HANDSHAKE_HEADER:
            length = int.from_bytes(body[1:_HANDSHAKE_HEADER])
            if length > MOST_BYTES:
                raise _Wrong(f"it has more than {MOST_BYTES} bytes")
            if len(body) >= _HANDSHAKE_HEADER + length:
                return body[_HANDSHAKE_HEADER : _HANDSHAKE_HEADER + length]
    return None


def _server_name(hello: _Bytes) -> str:
    hello.take(2 + 32)  # version, random
    session = hello.vector(1, "the session id")
    if session.left > 32:
        raise _Wrong("the session id is too long")
    if hello.vector(2, "the list of ciphers").left < 2 or hello.vector(1, "the list of compressions").left < 1:
        raise _Wrong("it offers nothing")
    found: list[str] = []
    if hello.left:
        extensions = hello.vector(2, "the list of extensions")
        while extensions.left:
            kind = extensions.number(2)
            content = extensions.vector(2, "an extension")
            if kind == _SERVER_NAME:
                found.append(_host_name(content))
        hello.finished()
    if len(found) != 1:
        raise _Wrong("it names nobody" if not found else "it names somebody twice")
    return found[0]


def _host_name(extension: _Bytes) -> str:
    names = extension.vector(2, "the list of names")
    extension.finished()
    if names.number(1) != _HOST_NAME:
        raise _Wrong("its name is no host's")
    name = names.vector(2, "the name")
    names.finished()
    text = name.take(name.left).lower()
    if not _NAME.fullmatch(text):
        raise _Wrong("its name is no host's")
    return text.decode("ascii")
