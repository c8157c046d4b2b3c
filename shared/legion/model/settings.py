"""The settings of each architecture that a run may choose, with their defaults and limits.

The names are transformers' own. Everything else, dropout included, is fixed by Legion.
"""

from dataclasses import dataclass
from typing import Any, Final

from legion.config import Architecture

_ACTIVATIONS: Final = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its default, and the values it takes: whole numbers or reals in [low, high], or one of `choices`."""

    default: Any
    low: float = 0
    high: float = 0
    choices: tuple[Any, ...] = ()

    def accepts(self, value: Any) -> bool:
        if self.choices:
            return any(value is choice or (isinstance(value, str) and value == choice) for choice in self.choices)
        if value is None:
            return self.default is None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if isinstance(self.low, int) and not isinstance(value, int):
            return False
        return self.low <= value <= self.high

    @property
    def allowed(self) -> str:
        if self.choices:
            return "one of " + ", ".join(str(choice).lower() for choice in self.choices)
        kind = "a whole number" if isinstance(self.low, int) else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}" + (", or null" if self.default is None else "")


def _count(default: int | None, low: int = 1, high: int = 1 << 20) -> Setting:
    return Setting(default, low, high)


def _real(default: float, low: float, high: float) -> Setting:
    return Setting(default, float(low), float(high))


def _flag(default: bool) -> Setting:
    return Setting(default, choices=(True, False))


def _activation(default: str) -> Setting:
    return Setting(default, choices=_ACTIVATIONS)


_SHARED: Final[dict[str, Setting]] = {
    # Never a default: `presets.resolved` puts the tokenizer's in.
    "vocab_size": _count(1, 1, 1 << 24),
    "initializer_range": _real(0.02, 1e-6, 1.0),
    "max_position_embeddings": _count(1024),
    "hidden_size": _count(256),
    "intermediate_size": _count(1024, high=1 << 22),
}

_ROTARY: Final[dict[str, Setting]] = _SHARED | {
    "num_hidden_layers": _count(4, high=1024),
    "num_attention_heads": _count(4, high=1024),
    "num_key_value_heads": _count(None, high=1024),
    "hidden_act": _activation("silu"),
    "rms_norm_eps": _real(1e-5, 1e-12, 0.1),
    "rope_theta": _real(10000.0, 1.0, 1e9),
    "tie_word_embeddings": _flag(False),
}

KNOWN: Final[dict[Architecture, dict[str, Setting]]] = {
    "llama": _ROTARY | {"head_dim": _count(None), "attention_bias": _flag(False), "mlp_bias": _flag(False)},
    "mistral": _ROTARY | {"head_dim": _count(None), "sliding_window": _count(None)},
    "qwen2": _ROTARY
    | {"use_sliding_window": _flag(False), "sliding_window": _count(None), "max_window_layers": _count(0, 0, 1024)},
    "qwen3": _ROTARY
    | {
        "head_dim": _count(None),
        "attention_bias": _flag(False),
        "use_sliding_window": _flag(False),
        "sliding_window": _count(None),
        "max_window_layers": _count(0, 0, 1024),
    },
    "gpt2": {
        "vocab_size": _SHARED["vocab_size"],
        "n_positions": _count(1024),
        "n_embd": _count(768),
        "n_layer": _count(12, high=1024),
        "n_head": _count(12, high=1024),
        "n_inner": _count(None, high=1 << 22),
        "activation_function": _activation("gelu_new"),
        "layer_norm_epsilon": _real(1e-5, 1e-12, 0.1),
        "initializer_range": _SHARED["initializer_range"],
        "scale_attn_weights": _flag(True),
        "tie_word_embeddings": _flag(True),
    },
    "gpt_neo": _SHARED
    | {
        "num_layers": _count(4, high=1024),
        "num_heads": _count(4, high=1024),
        "window_size": _count(256),
        "activation_function": _activation("gelu_new"),
        "layer_norm_epsilon": _real(1e-5, 1e-12, 0.1),
        "tie_word_embeddings": _flag(True),
    },
    "gpt_neox": _SHARED
    | {
        "num_hidden_layers": _count(4, high=1024),
        "num_attention_heads": _count(4, high=1024),
        "hidden_act": _activation("gelu"),
        "layer_norm_eps": _real(1e-5, 1e-12, 0.1),
        "rotary_emb_base": _real(10000.0, 1.0, 1e9),
        "rotary_pct": _real(0.25, 0.0, 1.0),
        "use_parallel_residual": _flag(True),
        "attention_bias": _flag(True),
        "tie_word_embeddings": _flag(False),
    },
}

DROPOUTS: Final[dict[Architecture, tuple[str, ...]]] = {
    "llama": ("attention_dropout",),
    "mistral": ("attention_dropout",),
    "qwen2": ("attention_dropout",),
    "qwen3": ("attention_dropout",),
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "gpt_neo": ("resid_dropout", "embed_dropout", "attention_dropout"),
    "gpt_neox": ("attention_dropout", "hidden_dropout"),
}
