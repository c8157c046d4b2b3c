"""An engine whose compute thread hangs while its loop lives: it ends by itself, and says why."""

from legion.errors import EngineDied, PeerLost
from legion_client.engine.protocol import Failed, StepDone
from tests.client.engine.engine_processes import Dataset, Engines, training, with_config

# As a card does that answers no more: a kernel that never ends, from the fourth step on.
HANGS = """
import threading
import torch
from legion.train import standstill
standstill.LEAST_S, standstill.FACTOR, standstill.LOOK_S = 3.0, 20.0, 0.2
forward = torch.nn.Embedding.forward
calls = 0

def hanging(self, ids):
    global calls
    calls += 1
    if calls > 8:
        threading.Event().wait()
    return forward(self, ids)

torch.nn.Embedding.forward = hanging
"""


def test_a_compute_thread_that_hangs_ends_its_engine_and_the_other_hears_of_it(
    engines: Engines, text_data: Dataset
) -> None:
    first, hung = engines.start(2, patches={1: HANGS})
    training([first, hung], with_config(text_data, steps=1_000_000, checkpoint={"every_steps": 1_000_000}))
    assert hung.ended() == EngineDied.exit_code
    failed = hung.only(Failed)
    assert failed.slug == "engine-died"
    assert "the computation hangs: nothing has moved for" in failed.message
    assert "graphics.excluded" in failed.hint
    assert "in hanging" in hung.log, "where it hangs is in the log"
    assert first.ended() == PeerLost.exit_code
    assert first.only(Failed).lost_peer == hung.identity.worker_id
    assert first.all(StepDone), "it had trained before"
