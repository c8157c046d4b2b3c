"""A hub dataset divided into leases, with the number of blocks of each fixed before anybody reads them; for the server.

A lease's blocks are estimated: bytes that metadata tells, times the tokens per byte of the leases that were read. A
lease that holds fewer repeats itself, one that holds more keeps its end unused; no block number depends on reading.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from legion.data.hub import DataFile, Dataset
from legion.data.leases import COMPRESSION, HUB, check_column, footer, read_texts
from legion.data.packing import Tokens, held_out
from legion.data.permutation import Permutation, key_of
from legion.data.tokenizer import Tokenizer
from legion.errors import DatasetEmpty
from legion.messages import Lease

logger = logging.getLogger(__name__)

T = TypeVar("T")

RANGE_BYTES = 8 << 20  # of JSON lines
FILE_LIMIT = 64  # files whose metadata is read; a larger dataset is used in part
LEASE_LIMIT = 4096  # keeps the manifest below a megabyte
LEASE_TOKENS = 8_000_000  # what a worker holds of a lease at most; a larger row group is used in part
EXPANSION = 3.0  # JSON lines are about three times their compressed size
SAMPLE_TOKENS = 1 << 20  # held-out tokens that are read and packed


@dataclass(frozen=True, slots=True)
class Part:
    """A lease whose blocks are not counted yet. `text_bytes`: what its metadata says of its text."""

    lease: Lease
    text_bytes: float

    @property
    def name(self) -> str:
        return f"{self.lease.file}#{self.lease.row_group or self.lease.start_byte or 0}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The first SAMPLE_TOKENS of some parts, by document, and the tokens that a byte of `text_bytes` stands for."""

    documents: list[Tokens]
    parts: frozenset[str]  # names of the parts that were begun
    tokens_per_byte: float


def divide(dataset: Dataset, column: str, seed: int) -> list[Part]:
    """Parquet by row groups, JSON lines by byte ranges, compressed JSON lines by files; in the order of the files.

    A dataset beyond FILE_LIMIT or LEASE_LIMIT is represented by a seeded choice.
    """
    files = _choice(dataset.files, FILE_LIMIT, seed, "files")
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="legion-footers") as threads:
        by_file = threads.map(lambda file: list(_parts_of(dataset, file, column)), files)
        parts = [part for parts in by_file for part in parts if part.text_bytes > 0]
    if not parts:
        raise DatasetEmpty(f"the {len(dataset.files)} data files hold no row")
    return _choice(parts, LEASE_LIMIT, seed, "parts")


def sample(dataset: Dataset, parts: Sequence[Part], column: str, tokenizer: Tokenizer) -> Sample:
    """Read `parts` in order until SAMPLE_TOKENS tokens are there.

    The last one is read to its end all the same: its size is the best measure of what the others hold.
    """
    documents: list[Tokens] = []
    begun: set[str] = set()
    tokens, known_bytes = 0, 0.0
    for part in parts:
        if tokens >= SAMPLE_TOKENS:
            break
        begun.add(part.name)
        found, text_bytes = 0, 0
        for text in read_texts(dataset.filesystem, part.lease, column):
            ids = tokenizer.encode(text)
            if tokens + found < SAMPLE_TOKENS:
                documents.append(ids)
            found += ids.size + 1
            text_bytes += len(text.encode("utf-8", "replace"))
            if found >= LEASE_TOKENS:
                break
        else:
            # Read to its end, a part shows what its metadata is worth; of a larger one only the text is known.
            text_bytes = int(part.text_bytes)
        tokens += found
        known_bytes += text_bytes
    if tokens == 0:
        raise DatasetEmpty(f"column {column!r} holds no text in the first {len(parts)} parts of the dataset")
    return Sample(documents, frozenset(begun), tokens / max(1.0, known_bytes))


def validation_order(parts: Sequence[Part], fraction: float, seed: int) -> list[Part]:
    """The parts that may be held out, in the order in which they are; those not needed train."""
    kept = held_out([part.name for part in parts], fraction, seed=seed)
    return sorted((part for part in parts if part.name in kept), key=lambda part: _rank(part.name, seed))


def counted(part: Part, tokens_per_byte: float, seq_len: int) -> Lease:
    """The part's lease with its estimated blocks, at least one."""
    tokens = min(LEASE_TOKENS, part.text_bytes * tokens_per_byte)
    return part.lease.model_copy(update={"blocks": max(1, int(tokens) // seq_len)})


def _parts_of(dataset: Dataset, file: DataFile, column: str) -> Iterator[Part]:
    path = file.url.removeprefix(HUB)
    if path.endswith(".parquet"):
        metadata = footer(dataset.filesystem, path)
        check_column(metadata.schema.to_arrow_schema(), path, column)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = (group.column(index) for index in range(group.num_columns))
            size = next(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
            yield Part(Lease(file=file.url, row_group=number, blocks=1), size if group.num_rows else 0)
    elif path.endswith(tuple(COMPRESSION)):
        yield Part(Lease(file=file.url, blocks=1), file.size_bytes * EXPANSION)
    else:
        for start in range(0, file.size_bytes, RANGE_BYTES):
            stop = min(file.size_bytes, start + RANGE_BYTES)
            yield Part(Lease(file=file.url, start_byte=start, stop_byte=stop, blocks=1), stop - start)


def _choice(items: Sequence[T], limit: int, seed: int, what: str) -> list[T]:
    if len(items) <= limit:
        return list(items)
    logger.warning("dataset used in part what=%s used=%d of=%d", what, limit, len(items))
    place = Permutation(len(items), key_of("choice", what, seed))
    return [items[index] for index in sorted(place(position) for position in range(limit))]


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
