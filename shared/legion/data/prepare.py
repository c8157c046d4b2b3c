"""What the server does once before a run: text to content-addressed token shards and a manifest with a fingerprint.

Runs without torch, transformers, datasets and grpc.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from legion.config import DataConfig
from legion.data import sources
from legion.data.blobs import write_blob
from legion.data.entropy import Entropies, entropies
from legion.data.manifest import sealed
from legion.data.packing import TokenBytes, Tokens, block_count, dtype_of, held_out, shards, token_bytes_for
from legion.data.sources import Document
from legion.data.tokenizer import Tokenizer, find_tokenizer
from legion.errors import DatasetEmpty, FingerprintMismatch
from legion.messages import DatasetManifest, ShardRef

ENTROPY_TOKENS = 8_000_000  # held-out tokens that are counted; more would change the figures by less than they show


@dataclass(frozen=True, slots=True)
class Prepared:
    """`data`: the configuration, hashes and revisions pinned. Entropies (see `entropy`) are of the held-out tokens."""

    data: DataConfig
    manifest: DatasetManifest
    unigram_entropy: float | None  # nats per token
    bigram_entropy: float | None


def prepare(config: DataConfig, *, seed: int, folder: Path) -> Prepared:
    """Everything workers need lies in `folder` afterwards, each file named by its SHA-256.

    Raises DataError (missing, empty, unreadable), Unavailable (hub), StorageFailed, and FingerprintMismatch when
    `config.fingerprint` is set and the data is no longer that data.
    """
    pinned_tokenizer, tokenizer = find_tokenizer(config.tokenizer)
    write_blob(folder, tokenizer.blob)
    manifest, known = _pack(_documents(config, seed), config, tokenizer, seed, folder)
    if config.fingerprint not in (None, manifest.fingerprint):
        raise FingerprintMismatch(
            f"the data has fingerprint {manifest.fingerprint[:12]}, "
            f"the run was started with {str(config.fingerprint)[:12]}",
            hint="Restore the files of data.paths or the Python version, or start a new run in another data folder.",
        )
    data = config.model_copy(update={"tokenizer": pinned_tokenizer, "fingerprint": manifest.fingerprint})
    return Prepared(data, manifest, known.unigram, known.bigram)


def _documents(config: DataConfig, seed: int) -> list[Document]:
    if config.source == "text":
        return sources.text(config.paths)
    if config.source == "distributed_dummy":
        return sources.distributed_dummy(seed)
    return sources.python_stdlib()


def _pack(
    documents: Sequence[Document], config: DataConfig, tokenizer: Tokenizer, seed: int, folder: Path
) -> tuple[DatasetManifest, Entropies]:
    width = token_bytes_for(tokenizer.vocab_size)
    train, validation = _split(documents, config.validation_fraction, seed)
    train_shards = [shard for shard, _ in _written(train, tokenizer, width, folder)]
    validation_shards, known = [], np.empty(0, dtype_of(width))
    for shard, tokens in _written(validation, tokenizer, width, folder):
        validation_shards.append(shard)
        if known.size < ENTROPY_TOKENS:
            known = np.concatenate([known, tokens])
    if block_count(sum(shard.tokens for shard in train_shards), config.seq_len) == 0:
        raise DatasetEmpty(f"data.source {config.source}: there is nothing to train on")
    manifest = sealed(
        kind="packed",
        token_bytes=width,
        vocab_size=tokenizer.vocab_size,
        seq_len=config.seq_len,
        tokenizer_sha256=tokenizer.sha256,
        end_of_text=tokenizer.end_of_text,
        train=tuple(train_shards),
        validation=tuple(validation_shards),
    )
    return manifest, entropies(known)


def _split(documents: Sequence[Document], fraction: float, seed: int) -> tuple[Sequence[Document], Sequence[Document]]:
    if len(documents) == 1 and fraction > 0:
        return _cut(documents[0], fraction)
    kept = held_out([document.name for document in documents], fraction, seed=seed)
    return [d for d in documents if d.name not in kept], [d for d in documents if d.name in kept]


def _cut(document: Document, fraction: float) -> tuple[list[Document], list[Document]]:
    """One file cannot be held out whole: its last lines are."""
    text = document.read()
    at = text.rfind("\n", 0, int(len(text) * (1 - fraction))) + 1
    if at == 0:
        return [document], []
    return [Document(document.name, lambda: text[:at])], [Document(document.name, lambda: text[at:])]


def _written(
    documents: Iterable[Document], tokenizer: Tokenizer, width: TokenBytes, folder: Path
) -> Iterator[tuple[ShardRef, Tokens]]:
    encoded = tokenizer.encode_all(document.read() for document in documents)
    for tokens in shards(encoded, end_of_text=tokenizer.end_of_text, token_bytes=width):
        content = memoryview(tokens.data).cast("B")
        yield ShardRef(sha256=write_blob(folder, content), size_bytes=content.nbytes, tokens=tokens.size), tokens
