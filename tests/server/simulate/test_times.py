"""How long computing takes, against the closed form."""

from pathlib import Path

import pytest

from legion.data.prepare import prepare
from legion.messages import ModelShape
from legion.model.build import blueprint
from legion.sim.device import BACKWARD_FLOP, DEVICES, FORWARD_FLOP, DeviceModel
from legion_server.simulate.course import Course
from legion_server.simulate.options import Options
from legion_server.simulate.run import Simulation

SETTINGS = (
    "model.settings.hidden_size=16",
    "model.settings.intermediate_size=32",
    "model.settings.num_hidden_layers=3",
    "data.seq_len=16",
    "batch.micro_batch_blocks=2",
    "batch.micro_batches=3",
    "rounds.steps=2",
)


def simulated(tmp_path: Path, *settings: str, **options: object) -> tuple[Course, ModelShape]:
    wanted = Options(**{"dataset": "distributed_dummy", "settings": SETTINGS + settings} | options)  # type: ignore[arg-type]
    simulation = Simulation(wanted, tmp_path, lambda _name, _point: None)
    course = simulation.distributed() if wanted.mode == "distributed" else simulation.baseline()
    vocab_size = prepare(simulation.config.data, seed=0, folder=tmp_path).manifest.vocab_size
    return course, blueprint(simulation.config, vocab_size).shape


def multiplied(shape: ModelShape) -> int:
    """Parameters that meet a token in a product: not the embedding, but where the head is tied to it."""
    embedding, *others = shape.units
    tied = not any(tensor.name.startswith("lm_head") for tensor in shape.units[-1].tensors)
    return sum(unit.numel for unit in others) + (embedding.numel if tied else 0)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_a_process_alone_takes_its_products_and_nothing_else(tmp_path: Path, tied: str) -> None:
    setting = f"model.settings.tie_word_embeddings={tied}"
    course, shape = simulated(tmp_path, setting, workers=2, steps=4, mode="baseline", speeds="1,3")
    tokens = 4 * 2 * 3 * 2 * 16  # steps, clusters, micro-batches, blocks, tokens of each
    training = (FORWARD_FLOP + BACKWARD_FLOP) * multiplied(shape) * tokens
    evaluation = FORWARD_FLOP * multiplied(shape) * 2 * 16  # of one micro-batch, at the end
    (work,) = course.workers.values()
    assert work.computed_s == pytest.approx((training + evaluation) / (4 * DEVICES["cpu"].flop_s))
    assert course.points[-1].time_s == pytest.approx(training / (4 * DEVICES["cpu"].flop_s))


def test_in_rounds_every_worker_takes_its_own_time(tmp_path: Path) -> None:
    course, shape = simulated(tmp_path, workers=2, steps=4, speeds="1,3")
    slow, fast = course.workers.values()
    assert slow.tokens + fast.tokens == course.points[-1].tokens
    for work in (slow, fast):
        training = (FORWARD_FLOP + BACKWARD_FLOP) * multiplied(shape) * work.tokens
        evaluation = FORWARD_FLOP * multiplied(shape) * 2 * 16
        expected = (training + evaluation) / (work.speed * DEVICES["cpu"].flop_s)
        assert work.computed_s == pytest.approx(expected)


def test_faster() -> None:
    assert DeviceModel("x", 2e9).faster(1.5) == DeviceModel("x", 3e9)
