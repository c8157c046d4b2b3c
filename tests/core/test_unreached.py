"""Why a server was not reached: a clause for everything that httpx raises, no class name, never empty."""

import socket

import httpx
import pytest

from legion.unreached import why


def subclasses(kind: type[httpx.TransportError]) -> list[type[httpx.TransportError]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in subclasses(below))]


@pytest.mark.parametrize("kind", subclasses(httpx.TransportError))
@pytest.mark.parametrize("text", ["", "Server disconnected"])
def test_every_error_has_words(kind: type[httpx.TransportError], text: str) -> None:
    said = why(kind(text))
    assert said
    assert kind.__name__ not in said


def test_a_port_that_nobody_listens_on_is_said_to_accept_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(httpx.TransportError) as raised, httpx.Client(trust_env=False) as http:
        http.get(f"http://127.0.0.1:{port}/")
    assert "refused" in why(raised.value) or "no connection was accepted" in why(raised.value)


def test_one_that_accepts_and_stays_silent_has_stopped_answering() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        httpx.Client(trust_env=False, timeout=0.2) as http,
        pytest.raises(httpx.TransportError) as raised,
    ):
        http.get(f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert why(raised.value) == "it has stopped answering"
