"""Presets have the shapes their names promise, and what does not fit is named field by field."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from transformers import AutoConfig

from legion.config import Architecture, DataConfig, ModelConfig, PresetName, Problem, RunConfig
from legion.errors import ConfigInvalid
from legion.model import presets
from legion.model.build import blueprint
from legion.model.settings import DROPOUTS, KNOWN

ARCHITECTURES = get_args(Architecture)


def run_config(settings: dict[str, Any] | None = None, *, architecture: Any = "llama", seq_len: int = 16) -> RunConfig:
    model = ModelConfig(preset=None, architecture=architecture, settings=settings or {})
    return RunConfig(model=model, data=DataConfig(seq_len=seq_len))


def problems(config: RunConfig, vocab_size: int = 257) -> dict[str, Problem]:
    with pytest.raises(ConfigInvalid) as caught:
        presets.check_fit(config, vocab_size)
    return {problem.field: problem for problem in caught.value.details["errors"]}


# The published sizes: GPT-2 (Radford et al. 2019), Llama 3.2 and Llama 2 model cards; ours with the byte tokenizer.
@pytest.mark.parametrize(
    ("preset", "vocab_size", "parameters"),
    [
        ("tiny", 257, 869_760),
        ("small", 257, 10_819_200),
        ("gpt2", 50_257, 124_439_808),
        ("gpt2-medium", 50_257, 354_823_168),
        ("gpt2-large", 50_257, 774_030_080),
        ("gpt2-xl", 50_257, 1_557_611_200),
        ("llama-1b", 128_256, 1_235_814_400),
        ("llama-3b", 128_256, 3_212_749_824),
        ("llama-7b", 32_000, 6_738_415_616),
    ],
)
def test_presets_have_their_published_size(preset: PresetName, vocab_size: int, parameters: int) -> None:
    assert blueprint(RunConfig(model=ModelConfig(preset=preset)), vocab_size).shape.parameters == parameters


def test_every_preset_is_listed_and_fits() -> None:
    assert set(presets.PRESETS) == set(get_args(PresetName))
    for preset in presets.PRESETS:
        presets.check_fit(RunConfig(model=ModelConfig(preset=preset)), 257)


def test_presets_only_name_settings_their_architecture_knows() -> None:
    for architecture, settings in presets.PRESETS.values():
        assert settings.keys() <= KNOWN[architecture].keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_defaults_are_in_their_own_range(architecture: Architecture) -> None:
    for name, setting in KNOWN[architecture].items():
        assert setting.accepts(setting.default), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_reads_config_json_as_the_blueprint_was_built(architecture: Architecture, tmp_path: Path) -> None:
    config = run_config(architecture=architecture)
    body = presets.hf_config_json(config, 300, end_of_text=299)
    (tmp_path / "config.json").write_text(json.dumps(body))
    read = AutoConfig.from_pretrained(tmp_path).to_dict()
    built: Any = blueprint(config, 300).model
    assert read["eos_token_id"] == 299
    assert read["architectures"] == [type(built).__name__]
    by_use = {"bos_token_id", "eos_token_id", "use_cache", "architectures", "transformers_version", "_name_or_path"}
    assert {k: v for k, v in read.items() if k not in by_use} == {
        k: v for k, v in built.config.to_dict().items() if k not in by_use
    }
    # Every setting a run may choose is one that transformers knows under this name.
    for name in KNOWN[architecture].keys() - {"rope_theta", "rotary_emb_base", "rotary_pct"}:
        assert name in read, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_is_off(architecture: Architecture) -> None:
    settings = presets.hf_config_json(run_config(architecture=architecture), 257, 256)
    built = AutoConfig.for_model(architecture, **{k: v for k, v in settings.items() if k != "model_type"})
    dropouts = {n: v for n, v in built.to_dict().items() if "drop" in n or n.endswith("_pdrop")}
    heads_only = {"classifier_dropout", "summary_first_dropout"}  # of heads that language models do not have
    assert set(DROPOUTS[architecture]) == dropouts.keys() - heads_only
    assert all(dropouts[name] == 0 for name in DROPOUTS[architecture])


def test_rotary_settings_arrive() -> None:
    theta = blueprint(run_config({"rope_theta": 5000.0}), 257).model.config.rope_parameters
    assert theta["rope_theta"] == 5000.0
    neox = run_config({"rotary_emb_base": 5000.0, "rotary_pct": 0.5}, architecture="gpt_neox")
    parameters = blueprint(neox, 257).model.config.rope_parameters
    assert (parameters["rope_theta"], parameters["partial_rotary_factor"]) == (5000.0, 0.5)


def test_the_vocabulary_is_the_tokenizers_unless_the_settings_ask_for_more() -> None:
    assert presets.resolved(run_config().model, 257)[1]["vocab_size"] == 257
    assert presets.resolved(run_config({"vocab_size": 300}).model, 257)[1]["vocab_size"] == 300
    presets.check_fit(run_config({"vocab_size": 257}), 257)
    found = problems(run_config({"vocab_size": 256}))
    assert found.keys() == {"model.settings.vocab_size"}
    assert found["model.settings.vocab_size"].allowed == ">= 257, or not set"


@pytest.mark.parametrize(("architecture", "name"), [("llama", "max_position_embeddings"), ("gpt2", "n_positions")])
def test_blocks_must_fit_the_context(architecture: str, name: str) -> None:
    presets.check_fit(run_config({name: 33}, architecture=architecture, seq_len=33), 257)
    found = problems(run_config({name: 33}, architecture=architecture, seq_len=34))
    assert found == {"data.seq_len": Problem("data.seq_len", found["data.seq_len"].problem, "<= 33")}


@pytest.mark.parametrize(
    ("architecture", "settings", "field"),
    [
        ("llama", {"attention_dropout": 0.1}, "attention_dropout"),
        ("gpt2", {"resid_pdrop": 0.0}, "resid_pdrop"),
        ("llama", {"auto_map": "evil.Model"}, "auto_map"),
        ("llama", {"_name_or_path": "/etc"}, "_name_or_path"),
        ("llama", {"n_embd": 128}, "n_embd"),
        ("llama", {"hidden_size": 0}, "hidden_size"),
        ("llama", {"hidden_size": 128.0}, "hidden_size"),
        ("llama", {"hidden_size": True}, "hidden_size"),
        ("llama", {"hidden_size": None}, "hidden_size"),
        ("llama", {"hidden_size": "128"}, "hidden_size"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("llama", {"rms_norm_eps": 0.5}, "rms_norm_eps"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ("llama", {"hidden_act": "evil"}, "hidden_act"),
        ("llama", {"hidden_size": 130}, "num_attention_heads"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("llama", {"hidden_size": 12}, "num_attention_heads"),  # heads of 3 coordinates cannot be rotated in pairs
        ("gpt_neox", {"rotary_pct": 0.01}, "rotary_pct"),
        ("gpt2", {"n_head": 5}, "n_head"),
        ("gpt_neo", {"num_heads": 5}, "num_heads"),
    ],
)
def test_settings_that_do_not_fit_are_named(architecture: str, settings: dict[str, Any], field: str) -> None:
    found = problems(run_config(settings, architecture=architecture))
    assert found.keys() == {f"model.settings.{field}"}
    assert found[f"model.settings.{field}"].allowed


def test_all_problems_are_told_at_once() -> None:
    assert problems(run_config({"vocab_size": 10, "num_key_value_heads": 3}, seq_len=4096)).keys() == {
        "data.seq_len",
        "model.settings.vocab_size",
        "model.settings.num_key_value_heads",
    }


def test_what_passes_the_check_can_be_built() -> None:
    accepted = [
        ("llama", {"hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 1}),
        ("llama", {"hidden_size": 132, "head_dim": 10}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("qwen3", {"head_dim": 2}),
        ("mistral", {"sliding_window": 8}),
        ("gpt2", {"n_embd": 6, "n_head": 3, "n_inner": 5}),
        ("gpt_neo", {"num_layers": 1}),
        ("gpt_neo", {"num_layers": 3, "window_size": 1}),
        ("gpt_neox", {"rotary_pct": 1.0, "attention_bias": False, "use_parallel_residual": False}),
    ]
    for architecture, settings in accepted:
        assert blueprint(run_config(settings, architecture=architecture), 257).shape.parameters


def test_the_server_reads_presets_without_torch_and_transformers() -> None:
    code = "import sys, legion.model.presets, legion.model.init; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
