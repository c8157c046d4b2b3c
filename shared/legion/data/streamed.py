"""Blocks of hub data that a worker streams by itself, lease by lease.

An epoch goes through the leases in a seeded order, MIXED at a time; within such a group the blocks are shuffled, so
that consecutive blocks come from several leases while only those have to be at hand.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from huggingface_hub import HfFileSystem
from numpy.typing import NDArray

from legion.data.leases import HUB, HUB_ERRORS, footer, read_texts
from legion.data.packing import Tokens, block_count, dtype_of
from legion.data.permutation import Permutation, key_of
from legion.data.stream import Block, Stream, cut
from legion.data.tokenizer import Tokenizer, cached_tokenizer
from legion.errors import DataError, DatasetEmpty, Unavailable
from legion.messages import DatasetManifest, Lease

K = TypeVar("K")
V = TypeVar("V")

MIXED = 4
CACHED = 6  # packed leases in memory: a group and the beginning of the next
CACHED_FOOTERS = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Block `index` of lease number `lease` of the manifest."""

    lease: int
    index: int


class LeaseOrder:
    """Which block of which lease is the run's block `number`: a bijection within each epoch, found in O(log leases)."""

    def __init__(self, blocks: NDArray[np.int64], *, seed: int) -> None:
        """`blocks`: of each lease, in the order of the manifest."""
        self._blocks, self._seed = blocks, seed
        self.epoch_blocks = int(blocks.sum())
        self._epoch: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def place(self, number: int) -> Place:
        epoch, position = divmod(number, self.epoch_blocks)
        order, group_ends = self._of_epoch(epoch)
        group = int(np.searchsorted(group_ends, position, side="right"))
        start = int(group_ends[group - 1]) if group else 0
        members = order[group * MIXED : (group + 1) * MIXED]
        ends = np.cumsum(self._blocks[members])
        shuffled = Permutation(int(ends[-1]), key_of("group", self._seed, epoch, group))(position - start)
        member = int(np.searchsorted(ends, shuffled, side="right"))
        lease = int(members[member])
        return Place(lease, shuffled - int(ends[member] - self._blocks[lease]))

    def _of_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # Read and replaced as one tuple: threads at a border of epochs may compute it twice, never see half of it.
        known = self._epoch
        if known is not None and known[0] == epoch:
            return known[1], known[2]
        count = self._blocks.size
        permute = Permutation(count, key_of("leases", self._seed, epoch))
        order = np.array([permute(position) for position in range(count)], np.int64)
        group_ends = np.cumsum(np.add.reduceat(self._blocks[order], np.arange(0, count, MIXED)))
        self._epoch = (epoch, order, group_ends)
        return order, group_ends


class StreamedBlocks:
    """Implements Blocks. A lease that holds fewer blocks than the manifest says repeats itself."""

    def __init__(self, manifest: DatasetManifest, cache_dir: Path, *, seed: int) -> None:
        """Raises FingerprintMismatch, DatasetEmpty, and DataError for a lease that is not a file of the hub."""
        if not manifest.leases:
            raise DatasetEmpty("the dataset has no lease to train on")
        for lease in manifest.leases:
            _check_place(lease)
        self._manifest = manifest
        self._tokenizer = cached_tokenizer(manifest, cache_dir)
        self._validation = Stream(manifest, manifest.validation, cache_dir)
        self._order = LeaseOrder(np.array([lease.blocks for lease in manifest.leases], np.int64), seed=seed)
        self._reader = LeaseReader(manifest, self._tokenizer)
        self.seq_len = manifest.seq_len
        self.epoch_blocks = self._order.epoch_blocks
        self.validation_count = len(self._validation)

    def train(self, number: int) -> Block:
        place = self._order.place(number)
        tokens = self._reader.tokens(place.lease)
        index = place.index % block_count(tokens.size, self.seq_len)
        return cut(tokens[index * self.seq_len :], self.seq_len, self._manifest.end_of_text)

    def validation(self, index: int) -> Block:
        return self._validation[index]


class _Slot:
    """A lease in memory, or on its way there: whoever holds the lock reads it, others wait for it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.tokens: Tokens | None = None


class LeaseReader:
    """Leases as token streams, the last CACHED of them kept. Safe to use from several threads."""

    def __init__(self, manifest: DatasetManifest, tokenizer: Tokenizer) -> None:
        self._manifest, self._tokenizer = manifest, tokenizer
        # Anonymous: no file that needs the volunteer's own token is the run's to read.
        self._files = HfFileSystem(token=False)
        self._lock = Lock()
        self._slots: OrderedDict[int, _Slot] = OrderedDict()
        self._footers: OrderedDict[str, list[Any]] = OrderedDict()

    def tokens(self, number: int) -> Tokens:
        """The tokens of lease `number`, at most one more than its blocks need. Raises DataError, Unavailable."""
        slot = _recent(self._slots, number, _Slot, CACHED, self._lock)
        with slot.lock:
            if slot.tokens is None:
                slot.tokens = self._read(self._manifest.leases[number])
            return slot.tokens

    def _read(self, lease: Lease) -> Tokens:
        wanted = lease.blocks * self._manifest.seq_len + 1
        try:
            tokens = np.concatenate([*self._pieces(lease, wanted), self._empty()])[:wanted]
        except HUB_ERRORS as error:
            raise Unavailable(
                f"{lease.file} cannot be read from the hub: {error}", hint="Check the connection to huggingface.co."
            ) from error
        if tokens.size < 2:
            raise DataError(f"{lease.file} holds no text where the manifest says it does")
        return tokens

    def _pieces(self, lease: Lease, wanted: int) -> Iterator[Tokens]:
        metadata = None if lease.row_group is None else self._footer(lease.file)
        texts = read_texts(self._files, lease, self._manifest.text_column, metadata)
        dtype = dtype_of(self._manifest.token_bytes)
        end = np.array([self._manifest.end_of_text], dtype)
        found = 0
        for ids in self._tokenizer.encode_all(texts):
            yield ids.astype(dtype)
            yield end
            found += ids.size + 1
            if found >= wanted:
                return

    def _footer(self, file: str) -> Any:
        known = _recent(self._footers, file, list, CACHED_FOOTERS, self._lock)
        if not known:
            known.append(footer(self._files, file.removeprefix(HUB)))
        return known[0]

    def _empty(self) -> Tokens:
        return np.empty(0, dtype_of(self._manifest.token_bytes))


def _recent(kept: OrderedDict[K, V], key: K, make: Callable[[], V], limit: int, lock: Lock) -> V:
    """The value of `key`, made if need be; the least recently used beyond `limit` are let go."""
    with lock:
        value = kept.setdefault(key, make())
        kept.move_to_end(key)
        while len(kept) > limit:
            kept.popitem(last=False)
        return value


def _check_place(lease: Lease) -> None:
    # The server must not name a path on this machine, nor make it fetch from elsewhere through a chained URL.
    if not lease.file.startswith(f"{HUB}datasets/") or "::" in lease.file:
        raise DataError(
            f"the server names {lease.file!r}, which is not a file of a dataset on the hub",
            hint="Do not go on: leave this server, it asks for what no run needs.",
        )
