"""Text from a finished checkpoint: what `legion-client generate` prints."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from legion.config import Architecture
from legion.errors import CheckpointInvalid, Unusable
from legion.model.continuation import continuation


def generate(checkpoint: Path, prompt: str, *, tokens: int, temperature: float, seed: int) -> str:
    """`prompt` and how the model in the folder `checkpoint` goes on, up to `tokens` tokens or its end of text.

    Temperature 0 takes the likeliest token each time; otherwise the same seed gives the same text on one machine. Reads
    local files only. Raises CheckpointInvalid for a folder that is not a whole checkpoint of an allow-listed model.
    """
    if tokens < 1 or not 0 <= temperature < math.inf:
        raise Unusable(f"tokens must be positive and temperature not negative, got {tokens} and {temperature}")
    model, tokenizer = _load(checkpoint)
    # An empty prompt starts a document, as training did: behind the end of another.
    start = tokenizer.encode(prompt, add_special_tokens=False) or [tokenizer.eos_token_id]
    ids = list(start)
    with torch.inference_mode():
        for token in continuation(model, start, temperature, torch.Generator().manual_seed(seed)):
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
            if len(ids) - len(start) == tokens:
                break
    return str(tokenizer.decode(ids if prompt else ids[1:], clean_up_tokenization_spaces=False))


def _load(checkpoint: Path) -> tuple[Any, Any]:
    _check_folder(checkpoint)
    # What its table of missing tensors says, the error below says in a sentence.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            checkpoint, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise CheckpointInvalid(f"{checkpoint} cannot be loaded: {' '.join(str(error).split())}") from error
    if missing := sorted(found["missing_keys"]):
        raise CheckpointInvalid(f"{checkpoint} lacks {len(missing)} tensors of its model: {missing[0]} ...")
    if tokenizer.eos_token_id is None:
        raise CheckpointInvalid(f"{checkpoint}: tokenizer_config.json names no end-of-text token")
    return model.eval(), tokenizer


def _check_folder(checkpoint: Path) -> None:
    hint = "Give the folder that 'legion-server up' named at its end; it holds config.json and model.safetensors."
    if not checkpoint.is_dir():
        raise CheckpointInvalid(f"{checkpoint} is not a folder", hint=hint)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (checkpoint / name).is_file():
            raise CheckpointInvalid(f"{checkpoint} is not a checkpoint: it has no {name}", hint=hint)
    if not any(checkpoint.glob("model*.safetensors")):
        raise CheckpointInvalid(f"{checkpoint} is not a whole checkpoint: it has no model.safetensors", hint=hint)
    try:
        kind = json.loads((checkpoint / "config.json").read_bytes())["model_type"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointInvalid(f"{checkpoint / 'config.json'} names no model_type", hint=hint) from error
    if kind not in get_args(Architecture):
        allowed = ", ".join(get_args(Architecture))
        raise CheckpointInvalid(f"{checkpoint} holds a model of type {kind!r}; Legion knows {allowed}", hint=hint)
