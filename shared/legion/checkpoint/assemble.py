"""Slices become a folder that `transformers.AutoModelForCausalLM.from_pretrained` loads.

Bytes are copied, so neither torch nor transformers is needed. Invariant: the folder appears whole or not at all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from legion.checkpoint.shards import SliceInfo, read_info, reading
from legion.checkpoint.storage import new_file, new_folder
from legion.checkpoint.weights import index, weight_files, write_weights
from legion.config import RunConfig
from legion.data.tokenizer import Tokenizer
from legion.errors import CheckpointInvalid
from legion.layout import Layout
from legion.messages import CheckpointManifest
from legion.model import presets

FILE_BYTES: Final = 5_000_000_000  # of weights in one file, as transformers' save_pretrained splits them


@dataclass(frozen=True, slots=True)
class Assembled:
    """A finished checkpoint folder: the root over its weights, and the names of its files."""

    weights_digest: str
    files: tuple[str, ...]


def assemble(
    manifest: CheckpointManifest,
    slices: Mapping[int, Path],
    config: RunConfig,
    vocab_size: int,
    tokenizer_json: Path,
    end_of_text: int,
    target: Path,
    *,
    file_bytes: int = FILE_BYTES,
) -> Assembled:
    """Writes the checkpoint to the folder `target`, in place of what may be there.

    `slices` maps ranks to slice files; `vocab_size` and `end_of_text` are the tokenizer's. CheckpointInvalid when
    a slice is missing, damaged or of another checkpoint; StorageFailed when the folder cannot be written.
    """
    layout = Layout(manifest.shape.sizes, manifest.shares)
    _check_slices(manifest, layout, slices)
    settings = presets.hf_config_json(config, vocab_size, end_of_text)
    _check_vocabulary(manifest, settings["vocab_size"])
    documents = _tokenizer_files(tokenizer_json, vocab_size, end_of_text)
    documents["config.json"] = _json(settings)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text)
    documents["generation_config.json"] = _json(special)

    files = weight_files(manifest.shape, file_bytes)
    if len(files) > 1:
        documents["model.safetensors.index.json"] = _json(index(files))
    with new_folder(target) as folder:
        weights_digest = write_weights(folder, files, manifest.shape, layout, slices)
        documents["README.md"] = _card(manifest, config, weights_digest).encode()
        origin = {"weights_digest": weights_digest, "manifest": manifest.model_dump(mode="json")}
        documents["legion.json"] = _json(origin | {"config": config.model_dump(mode="json")})
        for name, body in documents.items():
            with new_file(folder / name) as sink:
                sink.write(body)
    return Assembled(weights_digest, tuple(sorted([*documents, *(file.name for file in files)])))


def _check_slices(manifest: CheckpointManifest, layout: Layout, slices: Mapping[int, Path]) -> None:
    where = f"checkpoint after step {manifest.step}"
    missing = [rank for rank in layout.ranks if rank not in slices]
    if missing:
        raise CheckpointInvalid(f"{where}: the slices of ranks {', '.join(map(str, missing))} are missing")
    for rank in layout.ranks:
        info, elements = read_info(slices[rank])
        wanted = SliceInfo(
            run_id=manifest.run_id, step=manifest.step, rank=rank, epoch=manifest.epoch, tokens=manifest.tokens
        )
        if info != wanted:
            raise CheckpointInvalid(f"{where}: {slices[rank]} belongs elsewhere: it says {info}, not {wanted}")
        if elements != layout.owned(rank):
            raise CheckpointInvalid(
                f"{where}: {slices[rank]} holds {elements} elements, rank {rank} owns {layout.owned(rank)}"
            )


def _check_vocabulary(manifest: CheckpointManifest, vocab_size: int) -> None:
    embedding = manifest.shape.units[0].tensors[0]
    if embedding.shape[0] != vocab_size:
        raise CheckpointInvalid(
            f"checkpoint after step {manifest.step}: {embedding.name} has {embedding.shape[0]} rows, "
            f"the configuration's vocabulary {vocab_size} ids"
        )


def _tokenizer_files(tokenizer_json: Path, vocab_size: int, end_of_text: int) -> dict[str, bytes]:
    with reading(tokenizer_json):
        blob = tokenizer_json.read_bytes()
    try:
        body = json.loads(blob)
        spellings = {id_: token for token, id_ in body["model"]["vocab"].items()}
        spellings |= {token["id"]: token["content"] for token in body["added_tokens"]}
        return Tokenizer(blob, vocab_size, end_of_text, spellings[end_of_text]).files()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointInvalid(f"{tokenizer_json} is not a tokenizer that knows id {end_of_text}") from error


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=2, sort_keys=True).encode() + b"\n"


def _card(manifest: CheckpointManifest, config: RunConfig, weights_digest: str) -> str:
    """The model card that model hubs show."""
    architecture, _ = presets.resolved(config.model, 1)
    name = config.model.preset or architecture
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [legion, {architecture}]
---

# {name}, trained with Legion

A causal language model ({architecture}, {manifest.shape.parameters:,} parameters), pre-trained from scratch by
{len(manifest.shares)} computers that shared it with Legion.

| | |
|---|---|
| run | `{manifest.run_id}` |
| steps | {manifest.step:,} of {config.steps:,} |
| tokens | {manifest.tokens:,} |
| data | `{config.data.name or config.data.source}`, blocks of {config.data.seq_len} tokens |
| weights digest | `{weights_digest}` |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH OF THIS FOLDER")
```

`legion.json` says how it was made: the whole configuration and the layout of the slices it was put together from.
It is a base model: it continues text, and repeats what its data says, right or wrong.
"""
