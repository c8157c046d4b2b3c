"""The learning rate of a step: linear warm-up, then decay to a floor."""

import math

from legion.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """For step `step` (from 0) of `steps`. The first step already learns; the last is the floor's neighbour."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    floor = config.lr * config.min_lr_ratio
    match config.schedule:
        case "constant":
            return config.lr
        case "linear":
            return config.lr + (floor - config.lr) * done
        case "cosine":
            return floor + (config.lr - floor) * 0.5 * (1 + math.cos(math.pi * done))
