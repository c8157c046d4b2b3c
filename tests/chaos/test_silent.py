"""A member that is there and says nothing: its connections stay open, and it answers nothing on them."""

import signal
import time

import pytest

from legion.comm.liveness import FACTOR, SLOWEST_AT_FIRST_S
from legion.errors import PeerLost
from legion_client.engine.protocol import Failed, StepDone
from tests.client.engine.engine_processes import Dataset, Engines, training, with_config

BOUND_S = FACTOR * SLOWEST_AT_FIRST_S + 2.5  # as docs/protocol.md says, for who has just begun


@pytest.mark.timeout(180)
def test_a_stopped_member_is_found_out_by_those_who_wait_for_it(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, steps=1_000_000, checkpoint={"every_steps": 1_000_000})
    first, silent = engines.start(2)
    training([first, silent], data)
    first.wait_for(StepDone)
    silent.signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    assert first.ended() == PeerLost.exit_code
    assert time.monotonic() - stopped_at < 3 * BOUND_S, "a busy machine may take some of it"
    assert silent.identity.worker_id in first.only(Failed).message
    assert first.only(Failed).lost_peer == silent.identity.worker_id
    silent.signal(signal.SIGCONT)
    assert silent.ended() == PeerLost.exit_code
    assert "Traceback" not in first.log + silent.log
