"""The parameters of one unit as views of one flat buffer, whose memory comes and goes.

Invariant: the views never move. Autograd keeps the same storage from forward to backward; between the two its memory
is given back to the system, and filled again before the backward reads it.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from legion.layout import padded


class Slot(Protocol):
    """One parameter of a unit."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def offset(self) -> int: ...  # elements from the unit's start
    @property
    def numel(self) -> int: ...
    @property
    def owners(self) -> tuple[tuple[nn.Module, str], ...]: ...  # every module and attribute that holds it


class ModelUnit(Protocol):
    """Modules that are gathered and freed together."""

    @property
    def name(self) -> str: ...
    @property
    def modules(self) -> tuple[nn.Module, ...]: ...  # in the order of their forward
    @property
    def parameters(self) -> Sequence[Slot]: ...
    @property
    def needs(self) -> Sequence[int]: ...  # other units whose parameters these modules use
    @property
    def numel(self) -> int: ...


class FlatUnit:
    """Replaces the unit's parameters by views of `flat` (fp32, padded, on `device`), without memory at first."""

    def __init__(self, unit: ModelUnit, device: torch.device) -> None:
        self.unit = unit
        self.numel = unit.numel
        self.flat = torch.empty(padded(unit.numel), dtype=torch.float32, device=device)
        self._size_bytes = self.flat.untyped_storage().nbytes()
        self.parameters: list[nn.Parameter] = []
        for slot in unit.parameters:
            view = self.flat[slot.offset : slot.offset + slot.numel].view(slot.shape)
            parameter = nn.Parameter(view)
            for module, attribute in slot.owners:
                module._parameters[attribute] = parameter
            self.parameters.append(parameter)
        self.free()

    @property
    def only_looks_up(self) -> bool:
        """Embeddings: their backward adds up rows and never reads the weights."""
        return all(isinstance(module, nn.Embedding) for module in self.unit.modules)

    @property
    def allocated(self) -> bool:
        return self.flat.untyped_storage().nbytes() > 0

    def allocate(self) -> None:
        """Memory, with anything in it."""
        if not self.allocated:
            self.flat.untyped_storage().resize_(self._size_bytes)

    def free(self) -> None:
        self.flat.untyped_storage().resize_(0)


class HostStage:
    """Where the network writes and reads: the buffer itself on a CPU, a copy in host memory for other devices."""

    def __init__(self, flat: Tensor) -> None:
        self._flat = flat
        self._on_host = flat.device.type == "cpu"
        self.host = flat if self._on_host else torch.empty(flat.shape, dtype=flat.dtype)

    def to_device(self) -> None:
        if not self._on_host:
            # The same values as the forward saw: autograd need not take them for a change.
            with _unsafe_preserve_version_counter(self._flat):
                self._flat.copy_(self.host)
