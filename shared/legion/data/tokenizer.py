"""Tokenizers, each one tokenizer.json pinned by its SHA-256.

`bytes` needs no file: ids 0-255 are the bytes of the UTF-8 text, 256 is `<|endoftext|>`. It is also written as a
tokenizer.json, so that checkpoints load with transformers alone.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import tokenizers
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from numpy.typing import NDArray

from legion.config import TokenizerConfig
from legion.data.blobs import verified
from legion.data.leases import HUB_ERRORS
from legion.errors import DataError, DatasetMissing, FingerprintMismatch, Unavailable
from legion.messages import DatasetManifest

END_OF_TEXT = "<|endoftext|>"
# Names of the end-of-text token, for a tokenizer whose folder has no tokenizer_config.json to tell it.
KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]")
BATCH_DOCUMENTS = 64


@dataclass(frozen=True)
class Tokenizer:
    """`blob` is tokenizer.json; `end_of_text` the id between documents; `end_token` its spelling."""

    blob: bytes
    vocab_size: int
    end_of_text: int
    end_token: str

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.blob).hexdigest()

    @cached_property
    def _model(self) -> tokenizers.Tokenizer:
        return _parse(self.blob, "tokenizer.json")

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of one text, without an end. As everywhere in Hugging Face, text that spells the end token becomes it.

        Lone surrogates (JSON can hold them, UTF-8 cannot) become "?".
        """
        if self.sha256 == BYTES.sha256:
            return _encode_bytes(text)
        return np.array(self._model.encode(_valid(text), add_special_tokens=False).ids, np.uint32)

    def encode_all(self, texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """As `encode`, in order; a Hugging Face tokenizer works on BATCH_DOCUMENTS texts at a time, on all cores."""
        if self.sha256 == BYTES.sha256:
            yield from map(_encode_bytes, texts)
            return
        waiting = iter(texts)
        while batch := [_valid(text) for text in islice(waiting, BATCH_DOCUMENTS)]:
            for encoding in self._model.encode_batch_fast(batch, add_special_tokens=False):
                yield np.array(encoding.ids, np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, end tokens spelled out; bytes that are not UTF-8 become U+FFFD."""
        return self._model.decode(list(ids), skip_special_tokens=False)

    def files(self) -> dict[str, bytes]:
        """What a checkpoint folder needs for `AutoTokenizer.from_pretrained`: file name to content."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.end_token,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,  # the model's context is the model's to say
        }
        return {"tokenizer.json": self.blob, "tokenizer_config.json": json.dumps(config, indent=2).encode()}


def _encode_bytes(text: str) -> NDArray[np.uint32]:
    parts = text.encode("utf-8", "replace").split(END_OF_TEXT.encode())
    ids = [np.frombuffer(part, np.uint8).astype(np.uint32) for part in parts]
    if len(ids) == 1:
        return ids[0]
    end = np.array([256], np.uint32)
    return np.concatenate([piece for part in ids for piece in (part, end)][:-1])


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _byte_letters() -> list[str]:
    """The printable letter that the ByteLevel format (GPT-2's) writes for each byte."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _bytes_blob() -> bytes:
    # Written by hand: the library's own serialisation, and so the pinned hash, may change with its version.
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    end = {
        "id": 256,
        "content": END_OF_TEXT,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    vocab = {letter: byte for byte, letter in enumerate(_byte_letters())}
    body: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab | {END_OF_TEXT: 256},
            "merges": [],
        },
    }
    return json.dumps(body, indent=1).encode()


BYTES = Tokenizer(_bytes_blob(), vocab_size=257, end_of_text=256, end_token=END_OF_TEXT)


def find_tokenizer(config: TokenizerConfig) -> tuple[TokenizerConfig, Tokenizer]:
    """The tokenizer that `config` names, and `config` with hash and (from the hub) commit pinned; for the server.

    Raises DatasetMissing, DataError or Unavailable when it cannot be had, FingerprintMismatch when it is another one
    than `config.sha256` says.
    """
    if config.kind == "bytes":
        tokenizer, revision = BYTES, config.revision
    else:
        tokenizer, revision = _hugging_face(config.name or "", config.revision)
    if config.sha256 not in (None, tokenizer.sha256):
        raise FingerprintMismatch(
            f"tokenizer {config.name or config.kind} has SHA-256 {tokenizer.sha256[:12]}, the run was started with "
            f"{str(config.sha256)[:12]}",
            hint="Put the old tokenizer.json back, or start a new run.",
        )
    return config.model_copy(update={"sha256": tokenizer.sha256, "revision": revision}), tokenizer


def cached_tokenizer(manifest: DatasetManifest, cache_dir: Path) -> Tokenizer:
    """The manifest's tokenizer from a worker's cache, where it lies under its hash; FingerprintMismatch otherwise."""
    blob = verified(cache_dir, manifest.tokenizer_sha256).read_bytes()
    end_token = _parse(blob, "tokenizer.json").id_to_token(manifest.end_of_text)
    if end_token is None:
        raise FingerprintMismatch(f"tokenizer {manifest.tokenizer_sha256[:12]} has no id {manifest.end_of_text}")
    return Tokenizer(blob, manifest.vocab_size, manifest.end_of_text, end_token)


def _parse(blob: bytes, name: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(blob)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{name} is not a tokenizer: {error}", hint="Use a tokenizer.json of Hugging Face.") from error


def _hugging_face(name: str, revision: str) -> tuple[Tokenizer, str]:
    if Path(name).is_dir():
        files, base = fsspec.filesystem("file"), Path(name).resolve().as_posix()
    else:
        # Anonymous: what only the operator may read, the workers could not check.
        files, revision = HfFileSystem(token=False), _commit(name, revision)
        base = f"{name}@{revision}"
    try:
        blob = files.cat_file(f"{base}/tokenizer.json")
        settings = _settings(files, f"{base}/tokenizer_config.json")
    except FileNotFoundError as error:
        raise DatasetMissing(
            f"tokenizer {name} has no tokenizer.json", hint="Use a 'fast' tokenizer; older formats cannot be pinned."
        ) from error
    except HUB_ERRORS as error:
        raise Unavailable(f"tokenizer {name} cannot be read: {error}") from error
    model = _parse(blob, f"{name}/tokenizer.json")
    vocabulary = model.get_vocab(with_added_tokens=True)
    ends = (_spelling(settings.get("eos_token")), *KNOWN_ENDS)
    end_token = next((end for end in ends if isinstance(end, str) and end in vocabulary), None)
    if end_token is None:
        raise DataError(
            f"tokenizer {name} names no end-of-text token", hint="Add 'eos_token' to its tokenizer_config.json."
        )
    return Tokenizer(blob, max(vocabulary.values()) + 1, vocabulary[end_token], end_token), revision


def _commit(name: str, revision: str) -> str:
    try:
        return str(HfApi(token=False).model_info(name, revision=revision).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise DatasetMissing(
            f"there is no tokenizer {name} at {revision} on the hub, nor a folder of that name on the server",
            hint="Give a hub id, or a folder of the server with a tokenizer.json.",
        ) from error
    except HUB_ERRORS as error:
        raise Unavailable(
            f"tokenizer {name} cannot be found: {error}", hint="Check the server's connection to huggingface.co."
        ) from error


def _settings(files: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    if not files.exists(path):
        return {}
    try:
        settings = json.loads(files.cat_file(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    return settings if isinstance(settings, dict) else {}


def _spelling(token: object) -> object:
    # tokenizer_config.json writes a token as a string or as an object with its content.
    return token.get("content") if isinstance(token, dict) else token
