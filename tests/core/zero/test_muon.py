"""Muon against the formula itself: the quintic applied to the singular values, in float64."""

import numpy as np
import pytest
import torch
from cluster_of_threads import VOCAB, Trainer, Update, adamw_of, small_config, theta_of, train_alone, train_in_threads
from plain_units import PlainSlot
from torch import Tensor, nn

from legion.comm.local import LocalCluster
from legion.config import OptimizerConfig, RunConfig, merge
from legion.errors import ConfigInvalid
from legion.layout import Bounds, Layout
from legion.model.build import blueprint
from legion.zero.muon import UnitMuon, orthogonalised
from legion.zero.optimizers import Slice

CPU = torch.device("cpu")
SHAPES = [(7, 7), (3, 50), (50, 3), (1, 9), (9, 1), (1, 1), (64, 65)]


def quintic_of_singular_values(matrix: Tensor) -> Tensor:
    """U p(p(p(p(p(S / |S|))))) V^T with p(s) = 3.4445 s - 4.7750 s^3 + 2.0315 s^5."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm().clamp_min(1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vh


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e9])
def test_the_iteration_is_the_quintic_of_the_singular_values(shape: tuple[int, int], scale: float) -> None:
    matrix = random(shape, 1) * scale
    torch.testing.assert_close(orthogonalised(matrix).double(), quintic_of_singular_values(matrix), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_zero_gradient_changes_nothing_and_stays_finite(shape: tuple[int, int]) -> None:
    assert torch.equal(orthogonalised(torch.zeros(shape)), torch.zeros(shape))


def test_a_matrix_of_low_rank_keeps_its_rank() -> None:
    matrix = random((20, 1), 1) @ random((1, 30), 2)
    singular = torch.linalg.svdvals(orthogonalised(matrix))
    assert 0.6 < float(singular[0]) < 1.3
    assert float(singular[1]) < 1e-3


class PlainMuon:
    """From the text: B_t = mu B_{t-1} + G_t; O_t = NewtonSchulz5(G_t + mu B_t); W (1 - lr wd) - lr scale O_t."""

    def __init__(self, config: OptimizerConfig, shape: tuple[int, ...]) -> None:
        self._config = config
        self._momentum = torch.zeros(shape, dtype=torch.float64)
        self._scale = max(1.0, shape[0] / shape[1]) ** 0.5

    def updated(self, weights: Tensor, gradient: Tensor, lr: float) -> Tensor:
        gradient = gradient.double()
        self._momentum = self._config.muon_momentum * self._momentum + gradient
        change = quintic_of_singular_values(gradient + self._config.muon_momentum * self._momentum)
        decayed = (1 - lr * self._config.weight_decay) * weights.double()
        return (decayed - lr * self._scale * change).float()


CONFIG = OptimizerConfig(name="muon", lr=0.01, muon_lr=0.05, muon_momentum=0.9, weight_decay=0.2)


@pytest.mark.parametrize("shape", SHAPES)
def test_several_steps_equal_the_plain_formula(shape: tuple[int, int]) -> None:
    """With a schedule; the matrix lies behind a bias, which AdamW takes."""
    bias = 5
    size = bias + shape[0] * shape[1]
    slots = [PlainSlot("bias", (bias,), 0, ()), PlainSlot("weight", shape, bias, ())]
    part = Slice(random((size,), 3), torch.zeros(size), torch.zeros(size), torch.zeros(size))
    expected, reference = part.weights[bias:].clone().view(shape), PlainMuon(CONFIG, shape)
    vector = nn.Parameter(part.weights[:bias].clone())
    adamw = torch.optim.AdamW([vector], betas=(CONFIG.beta1, CONFIG.beta2), eps=CONFIG.eps, weight_decay=0.0)
    muon = UnitMuon(CONFIG, slots, Bounds(0, size), part, 0, CPU)
    for step in range(4):
        part.gradient.copy_(random((size,), 10 + step))
        given = part.gradient.clone()
        lr = CONFIG.lr / (step + 1)
        muon.update(lr)
        assert torch.equal(part.gradient, given)
        expected = reference.updated(expected, given[bias:].view(shape), CONFIG.muon_lr / (step + 1))
        vector.grad, adamw.param_groups[0]["lr"] = given[:bias], lr
        adamw.step()
    torch.testing.assert_close(part.weights[bias:].view(shape), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(part.weights[:bias], vector.detach(), rtol=1e-6, atol=1e-7)


def test_going_on_from_stored_momentum_changes_nothing() -> None:
    slots = [PlainSlot("weight", (6, 4), 0, ())]
    parts = [Slice(random((24,), 3), *(torch.zeros(24) for _ in range(3))) for _ in range(2)]
    straight, resumed = (UnitMuon(CONFIG, slots, Bounds(0, 24), part, 0, CPU) for part in parts)
    for step in range(6):
        if step == 3:
            resumed = UnitMuon(CONFIG, slots, Bounds(0, 24), parts[1], step, CPU)
        for part, muon in zip(parts, (straight, resumed), strict=True):
            part.gradient.copy_(random((24,), step))
            muon.update(0.01)
    assert torch.equal(parts[0].weights, parts[1].weights)
    assert not parts[0].exp_avg_sq.any()


def test_conv1d_keeps_its_matrix_the_other_way_round() -> None:
    """GPT-2: (inputs, outputs). 4 times as many outputs as inputs: twice the step, whichever way they are kept."""
    changes = []
    for module, shape in ((nn.Linear(2, 8), (8, 2)), (nn.Module(), (2, 8))):
        slot = PlainSlot("weight", shape, 0, ((module, "weight"),))
        part = Slice(torch.zeros(16), random((16,), 1), torch.zeros(16), torch.zeros(16))
        UnitMuon(CONFIG, [slot], Bounds(0, 16), part, 0, CPU).update(CONFIG.lr)
        changes.append(float(torch.linalg.matrix_norm(part.weights.view(shape), 2)))
    assert 0.6 < changes[0] / (2 * CONFIG.muon_lr) < 1.3
    assert 0.6 < changes[1] / (2 * CONFIG.muon_lr) < 1.3


def muon_for_blocks(config: RunConfig, parameters: dict[str, nn.Parameter]) -> Update:
    """The reference for a whole model: which parameters are whose is read from their names."""
    blocks = {n: p for n, p in parameters.items() if "layers." in n and p.ndim == 2}
    plain = {name: PlainMuon(config.optimizer, tuple(p.shape)) for name, p in blocks.items()}
    adamw = adamw_of(config, {name: p for name, p in parameters.items() if name not in blocks})

    def update() -> None:
        adamw()
        for name, parameter in blocks.items():
            assert parameter.grad is not None
            with torch.no_grad():
                parameter.copy_(plain[name].updated(parameter, parameter.grad, config.optimizer.muon_lr))
            parameter.grad = None

    assert len(blocks) == 2 * 7
    return update


def test_a_cluster_of_one_trains_as_one_process_does() -> None:
    config = small_config(optimizer__name="muon", cluster__policy="solo")
    outcomes, weights = train_in_threads(config, (1,), 6)
    expected, reference = train_alone(config, 6, muon_for_blocks)
    assert [o.loss for o in outcomes] == pytest.approx([e.loss for e in expected], rel=1e-4)
    plan = blueprint(config, VOCAB)
    start = np.concatenate([v[:n] for v, n in zip(theta_of(config, plan), plan.shape.sizes, strict=True)])
    assert np.linalg.norm(weights - reference) <= 1e-3 * np.linalg.norm(reference - start)
    _, by_adamw = train_in_threads(small_config(), (1,), 6)
    assert np.linalg.norm(weights - by_adamw) > 0.3 * np.linalg.norm(reference - start)


def test_a_cluster_of_several_is_refused_before_it_starts() -> None:
    config = small_config(optimizer__name="muon")
    plan = blueprint(config, VOCAB)
    layout = Layout(plan.shape.sizes, (1, 1))
    with (
        LocalCluster(layout) as cluster,
        pytest.raises(ConfigInvalid, match=r"'muon' needs whole matrices on one member, and the cluster has 2"),
    ):
        Trainer(config, cluster, layout, 0)


def test_a_configuration_with_larger_clusters_is_refused() -> None:
    muon = merge(RunConfig(), {"optimizer": {"name": "muon"}, "cluster": {"policy": "fixed", "size": 1}})
    with pytest.raises(ConfigInvalid, match="'muon' needs clusters of one member"):
        merge(muon, {"cluster": {"size": 2}})
