"""A blueprint filled with weights is the model transformers builds, for every architecture, tied and untied."""

import subprocess
import sys
import threading
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from legion.config import Architecture, DataConfig, ModelConfig, RunConfig
from legion.errors import ConfigInvalid
from legion.layout import padded
from legion.model import build, init, presets
from legion.model.build import Blueprint, blueprint
from legion.model.settings import KNOWN

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
VOCABULARY = 67  # a prime: no shape is a multiple of anything
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 19},
    "gpt_neo": {"hidden_size": 24, "intermediate_size": 40, "num_layers": 3, "num_heads": 2, "window_size": 4}
    | {"max_position_embeddings": 19},
}
ROTARY = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "max_position_embeddings": 19}
IDS = torch.arange(34).reshape(2, 17) * 31 % VOCABULARY


def run_config(architecture: Architecture, **more: Any) -> RunConfig:
    heads: dict[str, Any] = {} if architecture in SIZES else {"num_attention_heads": 2}
    if architecture == "gpt_neox":
        heads["rotary_pct"] = 0.5
    chosen = SIZES.get(architecture, ROTARY) | heads | more
    model = ModelConfig(preset=None, architecture=architecture, settings=chosen)
    return RunConfig(model=model, data=DataConfig(seq_len=17), seed=5)


def weights(config: RunConfig, plan: Blueprint) -> dict[str, torch.Tensor]:
    """theta_0 under the names of the checkpoint."""
    theta, found = init.theta_0(config), {}
    for unit, shape in zip(plan.units, plan.shape.units, strict=True):
        flat = np.empty(padded(shape.numel), np.float32)
        init.fill(flat, shape, 0, theta)
        for slot in unit.parameters:
            found[slot.name] = torch.from_numpy(flat[slot.offset : slot.offset + slot.numel]).view(slot.shape)
    return found


def materialise(config: RunConfig, plan: Blueprint) -> nn.Module:
    values = weights(config, plan)
    for unit in plan.units:
        for slot in unit.parameters:
            parameter = nn.Parameter(values[slot.name])
            for module, attribute in slot.owners:
                setattr(module, attribute, parameter)
    return plan.model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_filled_blueprint_is_the_model_transformers_builds(architecture: Architecture, tied: bool) -> None:
    config = run_config(architecture, tie_word_embeddings=tied)
    model = materialise(config, blueprint(config, VOCABULARY))
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])

    body = presets.hf_config_json(config, VOCABULARY, end_of_text=0)
    reference: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(body.pop("model_type"), **body))
    loaded = reference.load_state_dict(
        {name.replace("embed_out", "lm_head"): w for name, w in weights(config, blueprint(config, VOCABULARY)).items()},
        strict=False,
    )
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == (["lm_head.weight"] if tied else [])

    expected, got = reference.train()(IDS, labels=IDS), model(IDS, labels=IDS)
    assert torch.equal(got.logits, expected.logits)
    got.loss.backward()
    expected.loss.backward()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    assert got.past_key_values is None


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_units_hold_every_parameter_once_in_the_order_of_the_forward(architecture: Architecture, tied: bool) -> None:
    config = run_config(architecture, tie_word_embeddings=tied)
    plan = blueprint(config, VOCABULARY)
    assert [unit.name for unit in plan.units] == ["embedding", "block 0", "block 1", "block 2", "head"]
    assert [unit.needs for unit in plan.units] == [(), (), (), (), (0,) if tied else ()]

    slots = [slot for unit in plan.units for slot in unit.parameters]
    held = [getattr(module, attribute) for slot in slots for module, attribute in slot.owners]
    assert {id(p) for p in held} == {id(p) for p in plan.model.parameters()}
    assert len(held) == len(slots) + tied
    assert len({slot.name for slot in slots}) == len(slots)
    for unit, shape in zip(plan.units, plan.shape.units, strict=True):
        assert [s.offset for s in unit.parameters] == [
            sum(s.numel for s in unit.parameters[:i]) for i in range(len(unit.parameters))
        ]
        assert [(s.name, s.shape) for s in unit.parameters] == [(t.name, t.shape) for t in shape.tensors]
        assert unit.numel == shape.numel

    started: list[int] = []
    for number, unit in enumerate(plan.units):
        for module in unit.modules:
            module.register_forward_pre_hook(lambda *_, number=number: started.append(number))
    materialise(config, plan)(IDS)
    assert started == sorted(started)
    assert set(started) == set(range(len(plan.units)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_are_those_of_a_saved_checkpoint(architecture: Architecture, tmp_path: Any) -> None:
    from safetensors import safe_open

    config = run_config(architecture)
    plan = blueprint(config, VOCABULARY)
    model: Any = materialise(config, plan)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert set(file.keys()) == {slot.name for unit in plan.units for slot in unit.parameters}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc; ru_maxrss would count the parent's memory")
def test_a_model_larger_than_memory_costs_no_memory_to_build() -> None:
    code = """
from pathlib import Path
from legion.config import ModelConfig, RunConfig
from legion.model.build import blueprint
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # KiB
blueprint(RunConfig(), 257)
before = peak()
plan = blueprint(RunConfig(model=ModelConfig(preset="llama-7b")), 32_000)
assert all(p.is_meta for p in plan.model.parameters())
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10  # of 26 GiB of weights


def test_other_threads_build_modules_undisturbed() -> None:
    with build._parameters_on_meta():
        found: list[nn.Module] = []
        thread = threading.Thread(target=lambda: found.append(nn.Linear(3, 2)))
        thread.start()
        thread.join()
        assert nn.Linear(3, 2).weight.is_meta
    assert not found[0].weight.is_meta
    assert not nn.Linear(3, 2).weight.is_meta


def test_a_parameter_outside_every_unit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy = build._Anatomy(("transformer.wte",), "transformer.h", ("transformer.ln_f", "lm_head"))
    monkeypatch.setitem(build._ANATOMY, "gpt2", anatomy)
    with pytest.raises(RuntimeError, match=r"transformer\.wpe\.weight"):
        blueprint(run_config("gpt2"), VOCABULARY)


def test_a_configuration_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="seq_len"):
        blueprint(run_config("llama", max_position_embeddings=16), VOCABULARY)


def values(architecture: Architecture) -> st.SearchStrategy[dict[str, Any]]:
    small = {name: st.integers(1, 24) for name in KNOWN[architecture]}
    for name, setting in KNOWN[architecture].items():
        if setting.choices:
            small[name] = st.sampled_from(setting.choices)
        elif not isinstance(setting.low, int):
            small[name] = st.floats(setting.low, setting.high)
    large = {"vocab_size": st.integers(VOCABULARY, 80), "max_position_embeddings": st.integers(17, 40)}
    return st.fixed_dictionaries({}, optional={**small, **{k: v for k, v in large.items() if k in small}})


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_passes_the_check_can_be_built_and_run(data: st.DataObject) -> None:
    architecture = data.draw(st.sampled_from(ARCHITECTURES))
    config = run_config(architecture, **data.draw(values(architecture)))
    try:
        presets.check_fit(config, VOCABULARY)
    except ConfigInvalid:
        return
    model = materialise(config, blueprint(config, VOCABULARY))
    assert model(IDS, labels=IDS).loss.isfinite()
