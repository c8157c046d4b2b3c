"""What the log makes of gRPC's own words."""

import io
import logging
from collections.abc import Iterator

import pytest
from grpc._cython import cygrpc

from legion import logs

GRPC = "grpc._cython.cygrpc"


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """Legion's log, as a process configures it; afterwards pytest's handlers are back."""
    root, grpc = logging.getLogger(), logging.getLogger(GRPC)
    before = root.handlers[:], root.level, grpc.filters[:]
    root.handlers.clear()
    stream = io.StringIO()
    logs.configure(stream=stream)
    yield stream
    root.handlers[:], grpc.filters[:] = before[0], before[2]
    root.setLevel(before[1])


def raised(error: Exception, message: str) -> None:
    try:
        raise error
    except type(error):
        logging.getLogger(GRPC).exception(message)


def test_a_peer_that_hung_up_is_one_line_and_no_traceback(printed: io.StringIO) -> None:
    batch = "execute_batch", ("<grpc._cython.cygrpc.SendStatusFromServerOperation object at 0x7f>",)
    raised(cygrpc.ExecuteBatchError(*batch), "ExecuteBatchError raised in core by servicer method [/x]")
    assert printed.getvalue().endswith(f"INFO    {GRPC} a peer hung up before its answer was sent\n")
    assert printed.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    "error", [ValueError("SendStatusFromServerOperation"), cygrpc.ExecuteBatchError("execute_batch", ("Receive",))]
)
def test_whatever_else_went_wrong_keeps_its_traceback(printed: io.StringIO, error: Exception) -> None:
    raised(error, "Unexpected error raised by servicer method [/x]")
    assert "ERROR" in printed.getvalue()
    assert "Traceback" in printed.getvalue()
