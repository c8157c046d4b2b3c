"""An engine whose card fails under it, and one that somebody else tells to end."""

import signal

import pytest

from legion.errors import EngineDied
from legion_client.engine.protocol import Failed, Listening, StateSaved, StepDone, Stop
from tests.client.engine.engine_processes import Dataset, Engines, prepare_command, training, with_config
from tests.client.engine.round_table import seated

# As torch raises it when a card falls off the bus: from any call, here from the third step's.
CARD_GONE = """
import torch
forward = torch.nn.Embedding.forward
calls = 0

def gone(self, ids):
    global calls
    calls += 1
    if calls > 8:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\\nKernel errors may come late.")
    return forward(self, ids)

torch.nn.Embedding.forward = gone
"""
# As torch speaks of a driver that it cannot use.
OLD_DRIVER = """
import torch

def init():
    raise RuntimeError(
        "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by "
        "downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx\\nMore."
    )

torch.cuda.init = init
"""


def test_a_card_that_fails_is_named(engines: Engines, text_data: Dataset) -> None:
    [engine] = engines.start(1, patches={0: CARD_GONE})
    training([engine], with_config(text_data, steps=1000))
    assert engine.ended() == EngineDied.exit_code
    failed = engine.only(Failed)
    assert (failed.slug, failed.message) == (
        "engine-died",
        "the graphics card failed: CUDA error: unspecified launch failure",
    )
    assert "graphics.excluded" in failed.hint


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        (OLD_DRIVER, "The NVIDIA driver on your system is too old (found version 11040). Please update"),
        (None, ""),
    ],
)
def test_why_the_processor_computes_is_told(engines: Engines, text_data: Dataset, patch: str | None, says: str) -> None:
    [engine] = engines.start(1, patches={0: patch} if patch else None)
    engine.send(prepare_command(engine, text_data))
    listening = engine.wait_for(Listening)
    if listening.device.kind == "cuda":
        pytest.skip("a card computes here")
    assert listening.card_problem is not None
    assert listening.card_problem.startswith(says)
    assert "\n" not in listening.card_problem


def test_a_signal_to_every_process_loses_nothing(engines: Engines, text_data: Dataset) -> None:
    """Its agent hears the same signal, and tells it what to do."""
    data = with_config(text_data, cluster={"policy": "solo"}, steps=4000, rounds={"steps": 400, "codec": "int4"})
    first, other = engines.start(2)
    seated(data, [[first], [other]])
    first.wait_for(StepDone)
    for number in (signal.SIGTERM, signal.SIGINT):
        first.signal(number)
    first.wait_for(StepDone)
    first.send(Stop(reason="SIGTERM", within_s=2))
    assert first.ended() == 0, first.log
    assert first.only(StateSaved).final
    other.kill()
