"""A model as a blueprint: parameters on `meta` (shapes, no memory), buffers real, cut into units.

Built from a configuration alone, with transformers' own classes; code from elsewhere is never run. Invariant: every
parameter belongs to exactly one unit, the first that uses it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM

from legion.config import Architecture, RunConfig
from legion.ids import UnitId
from legion.messages import ModelShape, TensorShape, UnitShape
from legion.model import presets


@dataclass(frozen=True, slots=True)
class ParameterSlot:
    """One parameter: its name in a Hugging Face checkpoint, and where it lies in its unit's flat range."""

    name: str
    shape: tuple[int, ...]
    offset: int  # elements from the unit's start
    owners: tuple[tuple[nn.Module, str], ...]  # every (module, attribute) that holds it; tied parameters: several

    @property
    def numel(self) -> int:
        return TensorShape(name=self.name, shape=self.shape).numel


@dataclass(frozen=True, slots=True)
class Unit:
    """Modules whose parameters are gathered before the first of them runs, and freed after the last."""

    name: str
    modules: tuple[nn.Module, ...]  # in the order of their forward
    parameters: tuple[ParameterSlot, ...]
    needs: tuple[UnitId, ...]  # other units whose parameters these modules use: a tied head needs the embedding

    @property
    def numel(self) -> int:
        """Elements, before padding."""
        return sum(slot.numel for slot in self.parameters)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The model and its units, in the order of their forward; unit i is `shape.units[i]`."""

    model: nn.Module
    units: tuple[Unit, ...]
    shape: ModelShape


@dataclass(frozen=True, slots=True)
class _Anatomy:
    """Where an architecture keeps its parts."""

    embedding: tuple[str, ...]
    blocks: str
    head: tuple[str, ...]


_LLAMA: Final = _Anatomy(("model.embed_tokens",), "model.layers", ("model.norm", "lm_head"))
_GPT: Final = _Anatomy(("transformer.wte", "transformer.wpe"), "transformer.h", ("transformer.ln_f", "lm_head"))
_NEOX: Final = _Anatomy(("gpt_neox.embed_in",), "gpt_neox.layers", ("gpt_neox.final_layer_norm", "lm_head"))
_ANATOMY: Final[dict[Architecture, _Anatomy]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": _GPT,
    "gpt_neo": _GPT,
    "gpt_neox": _NEOX,
}
# Where the published checkpoints keep another name than the module's.
_CHECKPOINT_NAMES: Final[dict[Architecture, dict[str, str]]] = {"gpt_neox": {"lm_head.weight": "embed_out.weight"}}


def blueprint(config: RunConfig, vocab_size: int) -> Blueprint:
    """The run's model for a tokenizer of `vocab_size` ids, in training mode, without cache.

    Peak memory is that of the buffers: no parameter's memory is ever touched. Raises ConfigInvalid.
    """
    presets.check_fit(config, vocab_size)
    architecture, settings = presets.resolved(config.model, vocab_size)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    hf_config = AutoConfig.for_model(architecture, **settings, **special, use_cache=False)
    with _parameters_on_meta():
        model: nn.Module = AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
    model.train()
    units = _units(architecture, model)
    return Blueprint(model, units, _shape(units))


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters registered by this thread go to meta at once, before an initialiser touches their memory."""
    here = threading.get_ident()

    def move(_module: nn.Module, _name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        # A tied parameter comes again, on meta already: it must stay the same object.
        if threading.get_ident() != here or parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(move)  # type: ignore[arg-type] # torch's hint lacks the result
    try:
        yield
    finally:
        handle.remove()


def _units(architecture: Architecture, model: nn.Module) -> tuple[Unit, ...]:
    anatomy = _ANATOMY[architecture]
    blocks = model.get_submodule(anatomy.blocks)
    parts: list[tuple[str, tuple[str, ...]]] = [("embedding", anatomy.embedding)]
    parts += [(f"block {name}", (f"{anatomy.blocks}.{name}",)) for name, _ in blocks.named_children()]
    parts.append(("head", anatomy.head))

    names = {id(p): name for name, p in model.named_parameters()}
    owners: dict[int, list[tuple[nn.Module, str]]] = {key: [] for key in names}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                owners[id(parameter)].append((module, attribute))

    renamed = _CHECKPOINT_NAMES.get(architecture, {})
    home: dict[int, UnitId] = {}
    units: list[Unit] = []
    for number, (name, paths) in enumerate(parts):
        modules = tuple(model.get_submodule(path) for path in paths)
        slots: list[ParameterSlot] = []
        needs: set[UnitId] = set()
        offset = 0
        for parameter in (p for module in modules for p in module.parameters()):
            key = id(parameter)
            if home.setdefault(key, UnitId(number)) != number:
                needs.add(home[key])
                continue
            hf_name = renamed.get(names[key], names[key])
            slots.append(ParameterSlot(hf_name, tuple(parameter.shape), offset, tuple(owners[key])))
            offset += parameter.numel()
        units.append(Unit(name, modules, tuple(slots), tuple(sorted(needs))))
    _all_belong([names[key] for key in names if key not in home])
    return tuple(units)


def _all_belong(homeless: Sequence[str]) -> None:
    if homeless:
        raise RuntimeError(f"this version of transformers has parameters outside every unit: {', '.join(homeless)}")


def _shape(units: Sequence[Unit]) -> ModelShape:
    return ModelShape(
        units=tuple(
            UnitShape(
                name=unit.name, tensors=tuple(TensorShape(name=slot.name, shape=slot.shape) for slot in unit.parameters)
            )
            for unit in units
        )
    )
