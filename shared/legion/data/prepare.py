"""What the server does once before a run: text to content-addressed token shards and a manifest with a fingerprint.

Local text is packed whole, and so is a small dataset of the hub; of a larger one only the held-out text is packed, and
the rest is divided into leases that the workers stream. Runs without torch, transformers, datasets and grpc.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from legion.config import DataConfig
from legion.data import planning, sources
from legion.data.blobs import write_blob
from legion.data.entropy import Entropies, entropies
from legion.data.hub import Dataset, find_dataset
from legion.data.leases import HUB_ERRORS, read_texts
from legion.data.manifest import sealed
from legion.data.packing import Tokens, block_count, dtype_of, held_out, held_out_rows, shards, token_bytes_for
from legion.data.sources import Document
from legion.data.tokenizer import Tokenizer, find_tokenizer
from legion.errors import DatasetEmpty, FingerprintMismatch, Unavailable
from legion.messages import DatasetManifest, Lease, ShardRef

PACK_BELOW_BYTES = 64 << 20
ENTROPY_TOKENS = 8_000_000  # held-out tokens that are counted; more would change the figures by less than they show


@dataclass(frozen=True, slots=True)
class Prepared:
    """`data`: the configuration, hashes and revisions pinned. Entropies (see `entropy`) are of the held-out tokens."""

    data: DataConfig
    manifest: DatasetManifest
    unigram_entropy: float | None  # nats per token
    bigram_entropy: float | None


def prepare(config: DataConfig, *, seed: int, folder: Path, pack_below_bytes: int = PACK_BELOW_BYTES) -> Prepared:
    """Everything workers need lies in `folder` afterwards, each file named by its SHA-256.

    A hub dataset of fewer than `pack_below_bytes` is packed. Raises DataError (missing, empty, unreadable), Unavailable
    (hub), StorageFailed, and FingerprintMismatch when `config.fingerprint` is set and the data is no longer that data.
    """
    pinned_tokenizer, tokenizer = find_tokenizer(config.tokenizer)
    write_blob(folder, tokenizer.blob)
    work = _Preparation(config, tokenizer, seed, folder)
    revision = config.revision
    if config.source == "huggingface":
        dataset = find_dataset(config)
        revision = dataset.revision
        manifest, known = work.from_hub(dataset, pack_below_bytes)
    else:
        manifest, known = work.packed(*_split(_documents(config, seed), config.validation_fraction, seed))
    if config.fingerprint not in (None, manifest.fingerprint):
        raise FingerprintMismatch(
            f"the data has fingerprint {manifest.fingerprint[:12]}, "
            f"the run was started with {str(config.fingerprint)[:12]}",
            hint="Restore the text or the Python version, or start a new run in another data folder.",
        )
    pinned = {"tokenizer": pinned_tokenizer, "revision": revision, "fingerprint": manifest.fingerprint}
    return Prepared(config.model_copy(update=pinned), manifest, known.unigram, known.bigram)


@dataclass(frozen=True)
class _Preparation:
    config: DataConfig
    tokenizer: Tokenizer
    seed: int
    folder: Path

    def packed(self, train: Iterable[str], validation: Iterable[str]) -> tuple[DatasetManifest, Entropies]:
        train_shards, _ = self._write(self.tokenizer.encode_all(train))
        if block_count(sum(shard.tokens for shard in train_shards), self.config.seq_len) == 0:
            raise DatasetEmpty(f"data.source {self.config.source}: there is nothing to train on")
        validation_shards, known = self._write(self.tokenizer.encode_all(validation))
        return self._sealed("packed", train_shards, validation_shards, ()), entropies(known)

    def from_hub(self, dataset: Dataset, pack_below_bytes: int) -> tuple[DatasetManifest, Entropies]:
        if not dataset.files:
            raise DatasetEmpty(f"dataset {self.config.name} has no parquet or JSON lines files")
        try:
            parts = planning.divide(dataset, self.config.text_column, self.seed)
            if dataset.on_hub and dataset.size_bytes >= pack_below_bytes:
                return self._streamed(dataset, parts)
            return self.packed(*_split_rows(self._rows(dataset, parts), self.config.validation_fraction, self.seed))
        except HUB_ERRORS as error:
            raise Unavailable(f"dataset {self.config.name} cannot be read: {error}") from error

    def _streamed(self, dataset: Dataset, parts: Sequence[planning.Part]) -> tuple[DatasetManifest, Entropies]:
        column, fraction = self.config.text_column, self.config.validation_fraction
        candidates = planning.validation_order(parts, fraction, self.seed)
        sample = planning.sample(dataset, candidates or parts, column, self.tokenizer)
        kept = sample.parts if candidates else frozenset()
        shards, known = self._write(sample.documents if candidates else ())
        train = [part for part in parts if part.name not in kept]
        leases = [planning.counted(part, sample.tokens_per_byte, self.config.seq_len) for part in train]
        return self._sealed("streamed", (), shards, leases), entropies(known)

    def _rows(self, dataset: Dataset, parts: Sequence[planning.Part]) -> Callable[[], Iterator[str]]:
        """All texts, again with every call; of the hub's they are kept in memory, which is why they must be small."""

        def read() -> Iterator[str]:
            for part in parts:
                yield from read_texts(dataset.filesystem, part.lease, self.config.text_column)

        if not dataset.on_hub:
            return read
        texts = list(read())
        return lambda: iter(texts)

    def _write(self, documents: Iterable[Tokens]) -> tuple[list[ShardRef], Tokens]:
        """The shards of the documents, and their first ENTROPY_TOKENS tokens (to whole shards)."""
        width = token_bytes_for(self.tokenizer.vocab_size)
        written, head, head_tokens = [], [np.empty(0, dtype_of(width))], 0
        for tokens in shards(documents, end_of_text=self.tokenizer.end_of_text, token_bytes=width):
            content = memoryview(tokens.data).cast("B")
            sha256 = write_blob(self.folder, content)
            written.append(ShardRef(sha256=sha256, size_bytes=content.nbytes, tokens=tokens.size))
            if head_tokens < ENTROPY_TOKENS:
                head.append(tokens)
                head_tokens += tokens.size
        return written, np.concatenate(head)

    def _sealed(
        self,
        kind: Literal["packed", "streamed"],
        train: Iterable[ShardRef],
        validation: Iterable[ShardRef],
        leases: Iterable[Lease],
    ) -> DatasetManifest:
        return sealed(
            kind=kind,
            token_bytes=token_bytes_for(self.tokenizer.vocab_size),
            vocab_size=self.tokenizer.vocab_size,
            seq_len=self.config.seq_len,
            tokenizer_sha256=self.tokenizer.sha256,
            end_of_text=self.tokenizer.end_of_text,
            train=tuple(train),
            validation=tuple(validation),
            leases=tuple(leases),
            text_column=self.config.text_column,
        )


def _documents(config: DataConfig, seed: int) -> list[Document]:
    if config.source == "text":
        return sources.text(config.paths)
    if config.source == "distributed_dummy":
        return sources.distributed_dummy(seed)
    return sources.python_stdlib()


def _split(documents: Sequence[Document], fraction: float, seed: int) -> tuple[Iterable[str], Iterable[str]]:
    """Training and validation texts, by whole documents; a single one is cut."""
    if len(documents) == 1:
        return _cut(documents[0].read(), fraction)
    kept = held_out([document.name for document in documents], fraction, seed=seed)
    return (d.read() for d in documents if d.name not in kept), (d.read() for d in documents if d.name in kept)


def _split_rows(rows: Callable[[], Iterator[str]], fraction: float, seed: int) -> tuple[Iterable[str], Iterable[str]]:
    count = sum(1 for _ in rows())
    if count == 1:
        return _cut(next(rows()), fraction)
    kept = held_out_rows(count, fraction, seed=seed)
    return (
        (text for row, text in enumerate(rows()) if not kept(row)),
        (text for row, text in enumerate(rows()) if kept(row)),
    )


def _cut(text: str, fraction: float) -> tuple[list[str], list[str]]:
    """One document cannot be held out whole: its last lines are."""
    at = text.rfind("\n", 0, int(len(text) * (1 - fraction))) + 1
    if at == 0 or fraction == 0:
        return [text], []
    return [text[:at]], [text[at:]]
