"""Where the units' weights are needed, told by the model's own forward and backward. The only autograd-aware file.

Forward: weights are held before a site's first module runs and dropped after its last. Backward: held again when the
gradient of the site's output is there, dropped when the last gradient of the unit's own parameters is.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from legion.ids import UnitId
from legion.zero.flat import FlatUnit


class Sites(Protocol):
    """What the hooks tell."""

    def enter_forward(self, site: UnitId) -> None: ...
    def leave_forward(self, site: UnitId) -> None: ...
    def enter_backward(self, site: UnitId) -> None: ...
    def gradient_ready(self, site: UnitId, parameter: int) -> None: ...


def install(site: UnitId, unit: FlatUnit, sites: Sites) -> None:
    """Hook the unit's modules and parameters; they stay hooked for the life of the model."""
    modules = unit.unit.modules
    for module in modules:
        module.register_forward_pre_hook(lambda *_: sites.enter_forward(site))
    modules[-1].register_forward_hook(_leaving(site, sites, watch_output=not unit.only_looks_up))
    for index, parameter in enumerate(unit.parameters):
        parameter.register_post_accumulate_grad_hook(functools.partial(_ready, sites, site, index))


def _ready(sites: Sites, site: UnitId, index: int, _parameter: Tensor) -> None:
    sites.gradient_ready(site, index)


def _leaving(site: UnitId, sites: Sites, *, watch_output: bool) -> Callable[..., None]:
    def enter_backward(gradient: Tensor) -> None:
        sites.enter_backward(site)

    def leave(_module: nn.Module, _arguments: Any, output: Any) -> None:
        if watch_output and torch.is_grad_enabled():
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor) and leaf.requires_grad:
                    leaf.register_hook(enter_backward)
        sites.leave_forward(site)

    return leave
