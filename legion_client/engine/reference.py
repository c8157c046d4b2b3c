"""The same blocks, trained in one process by torch and transformers alone, and compared with what the cluster did.

    python -m legion_client.engine.reference --trace FILE

Shares with the run only the configuration, the data, theta_0 and the learning-rate schedule; the model is a plain
transformers model, the optimizer a plain torch.optim.AdamW, clipping torch's own. Exit code 0 if the run agrees.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from legion.config import RunConfig
from legion.data.blocks import open_blocks
from legion.data.loader import Loader, MicroBatch
from legion.errors import CheckpointInvalid, LegionError, VerificationFailed
from legion.messages import DatasetManifest
from legion.model.build import Blueprint, blueprint
from legion.model.init import fill, theta_0
from legion.train.device import autocast
from legion.train.loop import loss_sum_of
from legion.train.schedule import learning_rate

EXACT_STEPS = (
    50  # beyond, fp32 rounding alone drives two right runs apart: only the validation loss still says something
)
STEP_BOUND = 1e-5  # relative, each step's loss and gradient norm
DISTANCE_BOUND = 1e-4  # ||w - w_ref|| / ||w_ref - w_0||
VALIDATION_BOUND = {"none": 0.005, "bf16": 0.01, "int8": 0.01}  # relative
CPU = torch.device("cpu")
Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One step: mean loss in nats per token, norm of the gradient before clipping."""

    step: int
    loss: float
    grad_norm: float


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. A bound of None is for information."""

    name: str
    value: float
    bound: float | None

    @property
    def ok(self) -> bool:
        return self.bound is None or self.value <= self.bound  # a NaN is not


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a finished run's blocks in one process and compare.")
    parser.add_argument("--trace", type=Path, required=True, help="what 'legion-server up --verify' wrote")
    trace = json.loads(parser.parse_args().trace.read_text())
    try:
        checks = verify(trace)
        show(checks)
        if not all(check.ok for check in checks):
            worst = ", ".join(check.name for check in checks if not check.ok)
            raise VerificationFailed(f"the run differs from the single-process reference in: {worst}")
    except LegionError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        return error.exit_code
    return 0


def verify(trace: Mapping[str, Any]) -> list[Check]:
    """Every figure of a trace against the reference's."""
    config = RunConfig.model_validate(trace["config"])
    manifest = DatasetManifest.model_validate(trace["manifest"])
    run = [StepFigures(s["step"], s["loss"], s["grad_norm"]) for s in trace["per_step"]]
    with Loader(open_blocks(manifest, Path(trace["data_dir"]), seed=config.seed), config.batch) as loader:
        reference = Reference(config, blueprint(config, manifest.vocab_size), loader)
        figures = [reference.step(step) for step in range(config.steps)]
        validation = reference.validation_loss()
    checks = compare_steps(run, figures, exact=is_exact(config))
    if trace["checkpoint"] is not None:
        distance = reference.distance(read_weights(Path(trace["checkpoint"])))
        within = is_exact(config) and config.steps <= EXACT_STEPS
        checks.append(Check("weights ||w - w_ref|| / ||w_ref - w_0||", distance, DISTANCE_BOUND if within else None))
    if trace["validation_loss"] is not None and validation is not None:
        codec = max((config.codecs.weights, config.codecs.gradients), key=VALIDATION_BOUND.__getitem__)
        apart = abs(trace["validation_loss"] - validation) / validation
        checks.append(Check(f"validation loss, relative to {validation:.4f}", apart, VALIDATION_BOUND[codec]))
    return checks


def is_exact(config: RunConfig) -> bool:
    return config.codecs.weights == config.codecs.gradients == "none"


def compare_steps(run: Sequence[StepFigures], reference: Sequence[StepFigures], *, exact: bool) -> list[Check]:
    """The largest relative difference of loss and norm over the steps that must agree."""
    by_step = {figures.step: figures for figures in run}
    wanted = reference[:EXACT_STEPS]
    missing = [figures.step for figures in wanted if figures.step not in by_step]
    if exact and (missing or not wanted):
        raise VerificationFailed(f"the run has no record of its steps {', '.join(map(str, missing))} to compare")
    pairs = [(by_step[figures.step], figures) for figures in wanted if figures.step in by_step]
    loss = _largest([abs(mine.loss - theirs.loss) / abs(theirs.loss) for mine, theirs in pairs])
    norm = _largest([abs(mine.grad_norm - theirs.grad_norm) / theirs.grad_norm for mine, theirs in pairs])
    bound = STEP_BOUND if exact else None
    return [
        Check(f"loss, largest relative difference in {len(pairs)} steps", loss, bound),
        Check(f"gradient norm, largest relative difference in {len(pairs)} steps", norm, bound),
    ]


def _largest(differences: Sequence[float]) -> float:
    """NaN if one of them is: `max` would forget it."""
    return float(np.max(differences)) if differences else 0.0


class Reference:
    """One process, one model, one optimizer."""

    def __init__(self, config: RunConfig, plan: Blueprint, loader: Loader) -> None:
        self._config = config
        self._loader = loader
        self.start = start_weights(config, plan)
        self.model: nn.Module = AutoModelForCausalLM.from_config(plan.model.config, dtype=torch.float32)
        self._named = _by_checkpoint_name(plan, self.model)
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(torch.from_numpy(self.start[name]).view_as(parameter))
        settings = config.optimizer
        parameters = list(self._named.values())
        self._adamw = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            fused=True,  # the rounding of the cluster's; what is tested is the cluster, not AdamW's three kernels
        )

    def step(self, step: int) -> StepFigures:
        batches = [self._loader.micro_batch(step, index) for index in range(self._config.batch.micro_batches)]
        tokens = sum(batch.tokens for batch in batches)
        total = 0.0
        for batch in batches:
            loss = self._loss_sum(batch)
            loss.backward()
            total += float(loss.detach())
        norm = self._grad_norm() / tokens
        for parameter in self._named.values():
            assert parameter.grad is not None
            parameter.grad.div_(tokens)
        clip = self._config.optimizer.clip_norm
        if clip is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), clip, torch.tensor(norm, dtype=torch.float64))
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(self._config.optimizer, step, self._config.steps)
        self._adamw.step()
        self._adamw.zero_grad()
        return StepFigures(step + 1, total / tokens, norm)

    def _grad_norm(self) -> float:
        """In float64: torch's float32 norm of a million elements is off by 1e-5, as much as the bound allows."""
        squares = [float(torch.sum(p.grad.double() ** 2)) for p in self._named.values() if p.grad is not None]
        return math.sqrt(math.fsum(squares))

    def validation_loss(self) -> float | None:
        batches = list(self._loader.validation_batches(self._config.evaluation.max_blocks))
        if not batches:
            return None
        with torch.no_grad():
            total = sum(float(self._loss_sum(batch)) for batch in batches)
        return total / sum(batch.tokens for batch in batches)

    def distance(self, weights: Weights) -> float:
        """||w - w_ref|| / ||w_ref - w_0||, over all parameters."""
        difference, way = 0.0, 0.0
        for name, parameter in self._named.items():
            if name not in weights or weights[name].size != parameter.numel():
                raise CheckpointInvalid(f"the checkpoint lacks {name} in the right shape")
            final = parameter.detach().numpy().ravel().astype(np.float64)
            difference += float(np.sum((weights[name].ravel() - final) ** 2))
            way += float(np.sum((final - self.start[name]) ** 2))
        return float(np.sqrt(difference / way))

    def _loss_sum(self, batch: MicroBatch) -> Tensor:
        with autocast(self._config.cluster, CPU):
            logits = self.model(input_ids=torch.from_numpy(batch.inputs), use_cache=False).logits
        return loss_sum_of(logits, torch.from_numpy(batch.labels))


def start_weights(config: RunConfig, plan: Blueprint) -> dict[str, NDArray[np.float32]]:
    """theta_0 by parameter name, flat."""
    theta, found = theta_0(config), {}
    for unit, shape in zip(plan.units, plan.shape.units, strict=True):
        values = np.empty(unit.numel, dtype=np.float32)
        fill(values, shape, 0, theta)
        for slot in unit.parameters:
            found[slot.name] = values[slot.offset : slot.offset + slot.numel].copy()
    return found


def _by_checkpoint_name(plan: Blueprint, model: nn.Module) -> dict[str, nn.Parameter]:
    """The plain model's parameters under the names of the checkpoint; modules are found by their place."""
    places = {id(module): path for path, module in plan.model.named_modules()}
    return {
        slot.name: model.get_submodule(places[id(slot.owners[0][0])]).get_parameter(slot.owners[0][1])
        for unit in plan.units
        for slot in unit.parameters
    }


def read_weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a checkpoint folder."""
    found: dict[str, NDArray[np.float32]] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointInvalid(f"{folder} holds no safetensors file")
    for path in files:
        with safe_open(path, framework="np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    return found


def show(checks: Sequence[Check], write: Callable[[Table], None] | None = None) -> None:
    table = Table("figure", "value", "bound", "", title="against one process with torch.optim.AdamW")
    for check in checks:
        bound = "" if check.bound is None else f"<= {check.bound:g}"
        table.add_row(
            check.name, f"{check.value:.3g}", bound, "" if check.bound is None else ("ok" if check.ok else "FAILED")
        )
    (write or Console(width=120).print)(table)


if __name__ == "__main__":
    sys.exit(main())
