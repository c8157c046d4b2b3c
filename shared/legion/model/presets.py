"""Models as plain data: presets, the settings each architecture knows, and the config.json that transformers loads.

Needs neither torch nor transformers: the server uses it too. Invariant: a setting that is not listed here never
reaches transformers, so a configuration can name neither code nor files.
"""

from typing import Any, Final

from legion.config import Architecture, ModelConfig, PresetName, Problem, RunConfig
from legion.errors import ConfigInvalid
from legion.model.settings import DROPOUTS, KNOWN, Setting

Settings = dict[str, Any]

_LLAMA: Final[Settings] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
_GPT2: Final[Settings] = {
    "n_positions": 1024,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}

# Shapes only: the vocabulary is the tokenizer's, so the sizes that the names promise are reached with the tokenizers
# these models were published with (GPT-2: 50,257 ids; Llama 3.2: 128,256; Llama 2: 32,000).
PRESETS: Final[dict[PresetName, tuple[Architecture, Settings]]] = {
    "tiny": (  # 0.87M with the byte tokenizer
        "llama",
        _LLAMA
        | {
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            # Narrow models want more than GPT-2's 0.02: after 0.6M tokens of Python source, 0.06 is at 1.46 nats per
            # byte, 0.09 at 1.49, 0.02 at 1.70.
            "initializer_range": 0.06,
        },
    ),
    "small": (  # 10.8M with the byte tokenizer
        "llama",
        _LLAMA
        | {
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "max_position_embeddings": 1024,
            "initializer_range": 0.035,  # scaled with the width; 2.34 against 2.51 with 0.02 after 0.1M tokens
        },
    ),
    "gpt2": ("gpt2", _GPT2 | {"n_embd": 768, "n_layer": 12, "n_head": 12}),
    "gpt2-medium": ("gpt2", _GPT2 | {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt2-large": ("gpt2", _GPT2 | {"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "gpt2-xl": ("gpt2", _GPT2 | {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "llama-1b": (  # Llama 3.2 1B, with the context Llama 3 was pre-trained with
        "llama",
        _LLAMA
        | {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
        },
    ),
    "llama-3b": (  # Llama 3.2 3B
        "llama",
        _LLAMA
        | {
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
        },
    ),
    "llama-7b": (  # Llama 2 7B
        "llama",
        _LLAMA
        | {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
        },
    ),
}

_CLASSES: Final[dict[Architecture, str]] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neo": "GPTNeoForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
# The same quantity under each architecture's own name.
_HIDDEN: Final[dict[Architecture, str]] = {"gpt2": "n_embd"}
_LAYERS: Final[dict[Architecture, str]] = {"gpt2": "n_layer", "gpt_neo": "num_layers"}
_HEADS: Final[dict[Architecture, str]] = {"gpt2": "n_head", "gpt_neo": "num_heads"}
_CONTEXT: Final[dict[Architecture, str]] = {"gpt2": "n_positions"}


def resolved(config: ModelConfig, vocab_size: int) -> tuple[Architecture, Settings]:
    """The architecture and every setting it knows, defaults filled in; dropout is off.

    `vocab_size` is the tokenizer's; the settings may ask for more. Raises ConfigInvalid for a setting that is unknown
    or out of range; `check_fit` finds what does not fit together.
    """
    architecture, given = _given(config)
    problems = [*_unknown(architecture, config), *_out_of_range(architecture, given)]
    if problems:
        raise _invalid(problems)
    settings = {name: setting.default for name, setting in KNOWN[architecture].items()} | given
    settings["vocab_size"] = given.get("vocab_size", vocab_size)
    return architecture, settings | dict.fromkeys(DROPOUTS[architecture], 0.0) | _derived(architecture, settings)


def layers(config: ModelConfig) -> int:
    """How many transformer blocks the model has."""
    architecture, settings = resolved(config, 1)
    return int(settings[_LAYERS.get(architecture, "num_hidden_layers")])


def width(config: ModelConfig) -> int:
    """Elements of the residual stream at one token."""
    _, settings = resolved(config, 1)
    return int(settings["n_embd"] if "n_embd" in settings else settings["hidden_size"])


def context(config: ModelConfig) -> int:
    """The longest block the model can read, in tokens."""
    architecture, settings = resolved(config, 1)
    return int(settings[_CONTEXT.get(architecture, "max_position_embeddings")])


def hf_config_json(config: RunConfig, vocab_size: int, end_of_text: int) -> Settings:
    """The model's config.json, as `transformers.AutoConfig` reads it.

    No pad token: transformers would hold its embedding row at zero, and the run trained it.
    """
    architecture, settings = resolved(config.model, vocab_size)
    return settings | {
        "architectures": [_CLASSES[architecture]],
        "model_type": architecture,
        "dtype": "float32",
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "use_cache": True,
    }


def check_fit(config: RunConfig, vocab_size: int) -> None:
    """Raises ConfigInvalid, `details["errors"]` a list of Problem, when model, tokenizer and data do not fit."""
    architecture, given = _given(config.model)
    problems = [*_unknown(architecture, config.model), *_out_of_range(architecture, given)]
    if not problems:
        problems = _misfits(config, architecture, vocab_size)
    if problems:
        raise _invalid(problems)


def _given(config: ModelConfig) -> tuple[Architecture, Settings]:
    if config.preset is not None:
        architecture, settings = PRESETS[config.preset]
        return architecture, settings | config.settings
    if config.architecture is None:
        raise ConfigInvalid("model: give either preset or architecture")
    return config.architecture, dict(config.settings)


def _derived(architecture: Architecture, settings: Settings) -> Settings:
    """What follows from the settings but cannot be said in them, being no plain value."""
    if architecture == "gpt_neo":
        pairs, odd = divmod(settings["num_layers"], 2)
        return {"attention_types": [[["global", "local"], pairs], [["global"], odd]]}
    derived: Settings = {}
    if "num_key_value_heads" in settings and settings["num_key_value_heads"] is None:
        derived["num_key_value_heads"] = settings["num_attention_heads"]
    if "head_dim" in settings and settings["head_dim"] is None:
        derived["head_dim"] = settings["hidden_size"] // settings["num_attention_heads"]
    return derived


def _unknown(architecture: Architecture, config: ModelConfig) -> list[Problem]:
    known = KNOWN[architecture]
    return [
        Problem(f"model.settings.{name}", f"not a setting of {architecture}", ", ".join(sorted(known)))
        for name in config.settings
        if name not in known
    ]


def _out_of_range(architecture: Architecture, given: Settings) -> list[Problem]:
    known = KNOWN[architecture]
    return [
        Problem(f"model.settings.{name}", f"{value!r} is not possible", known[name].allowed)
        for name, value in given.items()
        if name in known and not known[name].accepts(value)
    ]


def _misfits(config: RunConfig, architecture: Architecture, vocab_size: int) -> list[Problem]:
    _, settings = resolved(config.model, vocab_size)
    hidden = settings[_HIDDEN.get(architecture, "hidden_size")]
    heads = settings[_HEADS.get(architecture, "num_attention_heads")]
    key_values = settings.get("num_key_value_heads", heads)
    where = "model.settings."
    found: list[Problem] = []
    if settings["vocab_size"] < vocab_size:
        problem = f"{settings['vocab_size']} ids are fewer than the tokenizer's {vocab_size}"
        found.append(Problem(where + "vocab_size", problem, f">= {vocab_size}, or not set"))
    longest = context(config.model)
    if config.data.seq_len > longest:
        problem = f"blocks of {config.data.seq_len} tokens are longer than the model's context"
        found.append(Problem("data.seq_len", problem, f"<= {longest}"))
    if hidden % heads:
        problem = f"{heads} heads do not divide the hidden size {hidden}"
        found.append(
            Problem(where + _HEADS.get(architecture, "num_attention_heads"), problem, f"a divisor of {hidden}")
        )
    if heads % key_values:
        problem = f"{key_values} key-value heads do not divide {heads} heads"
        found.append(Problem(where + "num_key_value_heads", problem, f"a divisor of {heads}"))
    if not found:
        found += _odd_rotation(architecture, settings, hidden // heads)
    return found


def _odd_rotation(architecture: Architecture, settings: Settings, head: int) -> list[Problem]:
    """Rotary position embeddings turn pairs of coordinates (arXiv 2104.09864), so their number must be even."""
    if architecture in ("gpt2", "gpt_neo"):
        return []
    turned = int(settings.get("head_dim", head) * settings.get("rotary_pct", 1.0))
    if turned >= 2 and turned % 2 == 0:
        return []
    field = "rotary_pct" if "rotary_pct" in settings else "num_attention_heads"
    return [Problem(f"model.settings.{field}", f"rotates {turned} coordinates of each head", "an even number, >= 2")]


def _invalid(problems: list[Problem]) -> ConfigInvalid:
    listed = "; ".join(f"{p.field}: {p.problem} (allowed: {p.allowed})" for p in problems)
    return ConfigInvalid(listed, errors=problems)


__all__ = ["PRESETS", "Setting", "Settings", "check_fit", "context", "hf_config_json", "layers", "resolved"]
