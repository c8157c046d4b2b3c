"""Two clusters of one through a whole run in rounds, over REST, followed by the server's own assembler."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from round_workers import Bench
from safetensors.numpy import load_file

from legion import digest
from legion.config import RunConfig
from legion.layout import padded
from legion.messages import ModelShape, TensorShape, UnitShape
from legion.model.init import fill, theta_0
from legion.rounds import GlobalVersion, RoundsPage

Eventually = Callable[..., Awaitable[None]]
VOCABULARY, WIDTH = 257, 32
IN_ROUNDS: dict[str, Any] = {
    "cluster": {"policy": "fixed", "size": 1},
    "rounds": {"steps": 2, "checkpoint_every": 2},
    "steps": 6,
}


@pytest.fixture
def shape() -> ModelShape:
    """An embedding and a head: all that the assembler looks at."""
    tensors = [("model.embed_tokens.weight", (VOCABULARY, WIDTH)), ("lm_head.weight", (VOCABULARY, WIDTH))]
    return ModelShape(units=tuple(UnitShape(name=n, tensors=(TensorShape(name=n, shape=s),)) for n, s in tensors))


def initial(config: RunConfig, shape: ModelShape) -> np.ndarray:
    units = [np.empty(padded(unit.numel), np.float32) for unit in shape.units]
    for unit, values in zip(shape.units, units, strict=True):
        fill(values, unit, 0, theta_0(config))
    return np.concatenate(units)


async def test_a_run_in_rounds_from_the_first_plan_to_the_checkpoint(house: Any, eventually: Eventually) -> None:
    bench = Bench(house, await house.start(2, **IN_ROUNDS))
    coordinator = house.backend.coordinator
    theta = initial(coordinator.run.config, house.shape)
    for number in range(3):
        plan = await bench.play()
        assert (plan.round, plan.steps, plan.first_step) == (number, 2, 2 * number)
        assert len(plan.participants) == len(plan.spans) == 2
        await eventually(lambda: coordinator.state.rounds.anchored == number + 1)  # noqa: B023
        page = RoundsPage.model_validate((await house.admin.get(f"/training/rounds?since={number}")).json())
        (record,) = page.records
        bench.applied(theta, record)
        assert record.root == digest.root(digest.leaves(theta))
        assert record.tokens == 2 * 2 * 2 * 8 * 16  # clusters, steps, micro-batches, blocks, tokens
    await eventually(lambda: coordinator.run.phase == "complete")
    views = (await house.admin.get("/checkpoints")).json()
    assert [(view["step"], view["assembled"], view["manifest"]["shares"]) for view in views] == [
        (4, True, [1]),
        (6, True, [1]),
    ]
    assert views[-1]["weights_digest"] == digest.root(digest.leaves(theta))
    weights = load_file(house.backend.settings.checkpoints_dir / "step-00000006" / "model.safetensors")
    head = weights["lm_head.weight"].ravel()
    assert np.array_equal(head, theta[-padded(head.size) :][: head.size])
    version = GlobalVersion.model_validate((await house.http.get("/training/global_version")).json())
    assert (version.anchor, version.root_round, version.checkpoint_round) == (3, 3, 3)
    assert version.root == views[-1]["weights_digest"]
