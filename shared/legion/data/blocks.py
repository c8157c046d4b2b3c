"""Block `number` of a run, for any number, on any worker: a pure function of (seed, number) and the manifest."""

from pathlib import Path
from typing import Protocol

from legion.data.manifest import check_fingerprint
from legion.data.permutation import Permutation, key_of
from legion.data.stream import Block, Stream
from legion.data.streamed import StreamedBlocks
from legion.errors import DatasetEmpty
from legion.messages import DatasetManifest


class Blocks(Protocol):
    """All blocks of a run. Safe to use from several threads."""

    @property
    def seq_len(self) -> int: ...

    @property
    def epoch_blocks(self) -> int:
        """Blocks before the data begins again, in another order."""

    def train(self, number: int) -> Block:
        """The run's block `number`, from 0; it never ends."""

    @property
    def validation_count(self) -> int: ...

    def validation(self, index: int) -> Block:
        """Held-out block `index` < validation_count, in the order of the text."""


class PackedBlocks:
    """Blocks of token shards that the server prepared."""

    def __init__(self, manifest: DatasetManifest, cache_dir: Path, *, seed: int) -> None:
        self._train = Stream(manifest, manifest.train, cache_dir)
        self._validation = Stream(manifest, manifest.validation, cache_dir)
        self._seed = seed
        self.seq_len = manifest.seq_len
        self.epoch_blocks = len(self._train)
        self.validation_count = len(self._validation)
        if self.epoch_blocks == 0:
            raise DatasetEmpty("the dataset holds no block to train on")

    def train(self, number: int) -> Block:
        epoch, position = divmod(number, self.epoch_blocks)
        return self._train[Permutation(self.epoch_blocks, key_of("blocks", self._seed, epoch))(position)]

    def validation(self, index: int) -> Block:
        return self._validation[index]


def open_blocks(manifest: DatasetManifest, cache_dir: Path, *, seed: int) -> Blocks:
    """The run's blocks, from files in `cache_dir` named by their SHA-256, every one checked before it is used.

    Raises FingerprintMismatch (naming the file), DatasetEmpty, and DataError when a lease is no file of the hub.
    """
    check_fingerprint(manifest)
    kind = StreamedBlocks if manifest.kind == "streamed" else PackedBlocks
    return kind(manifest, cache_dir, seed=seed)
