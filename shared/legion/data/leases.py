"""Reading a part of a data file: a parquet row group, a byte range of JSON lines, or a compressed file of JSON lines.

Server and workers read with the same code, straight from fsspec with pyarrow, because it moves the lease's bytes and
no more. The streaming of `datasets` can address row groups too (`.reshard().shard()`), and the tests compare with it,
but for every row group it reads the file's footer twice and five megabytes ahead (measured: 6.4 MB for a column chunk
of 1.0 MB), it knows no byte ranges of JSON lines, and it costs a worker 55 MB and a quarter of a second to import.
"""

import io
import json
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HfHubHTTPError

from legion.errors import DataError
from legion.messages import Lease

HUB = "hf://"
# OSError, and whatever the hub library's HTTP client raises: httpx or httpx2, by its version.
HUB_ERRORS: tuple[type[Exception], ...] = (OSError, HfHubHTTPError.__bases__[0])
COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
BATCH_ROWS = 64
TAIL_BYTES = 1 << 16  # how much is read at once to complete the last line of a range
LINE_LIMIT_BYTES = 64 << 20
WRONG_COLUMN = "Set data.text_column to the column that holds the text."


def read_texts(files: fsspec.AbstractFileSystem, lease: Lease, column: str, metadata: Any = None) -> Iterator[str]:
    """The lease's texts in order, missing and empty ones left out; stop iterating and nothing more is read.

    `metadata` is the parquet file's `footer`, to save reading it again. Raises DataError; HUB_ERRORS pass through.
    """
    path = lease.file.removeprefix(HUB)
    try:
        if lease.row_group is not None:
            texts = _row_group(files, path, lease.row_group, column, metadata)
        else:
            texts = (_text_of(line, path, column) for line in _lines(files, path, lease))
        yield from (text for text in texts if text)
    except pa.ArrowException as error:
        raise DataError(f"{lease.file} cannot be read as it should: {error}") from error


def footer(files: fsspec.AbstractFileSystem, path: str) -> Any:
    """The pyarrow FileMetaData of a parquet file."""
    try:
        with files.open(path, "rb", cache_type="none") as file:
            return pq.read_metadata(file)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a parquet file: {error}") from error


def _row_group(
    files: fsspec.AbstractFileSystem, path: str, row_group: int, column: str, metadata: Any
) -> Iterator[str | None]:
    # Without fsspec's cache: it would read ahead of what pyarrow asks for, which is exactly the column chunk.
    with files.open(path, "rb", cache_type="none") as file:
        parquet = pq.ParquetFile(file, metadata=metadata)
        check_column(parquet.schema_arrow, path, column)
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[row_group], columns=[column]):
            yield from batch.column(0).to_pylist()


def check_column(schema: Any, path: str, column: str) -> None:
    """DataError unless the arrow `schema` has a text column of that name."""
    if column not in schema.names:
        raise DataError(f"{path} has no column {column!r}; it has {', '.join(schema.names)}", hint=WRONG_COLUMN)
    kind = schema.field(column).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    # A column whose rows are all missing has no type of its own; it is empty rather than wrong.
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_null(values)):
        raise DataError(f"{path}: column {column!r} holds {kind}, not text", hint=WRONG_COLUMN)


def _text_of(line: bytes, path: str, column: str) -> str | None:
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path} is not JSON lines: {error}", hint="Each line must be one JSON object.") from error
    if not isinstance(row, dict):
        raise DataError(f"{path} has a line that is no JSON object", hint="Each line must be one JSON object.")
    if column not in row:
        raise DataError(f"{path} has a line without {column!r}; it has {', '.join(row)}", hint=WRONG_COLUMN)
    text = row[column]
    if not isinstance(text, str | None):
        raise DataError(f"{path}: {column!r} holds {type(text).__name__}, not text", hint=WRONG_COLUMN)
    return text


def _lines(files: fsspec.AbstractFileSystem, path: str, lease: Lease) -> Iterator[bytes]:
    for suffix, kind in COMPRESSION.items():
        if path.endswith(suffix):
            return _compressed_lines(files, path, kind)
    return _line_range(files, path, lease.start_byte or 0, lease.stop_byte or files.size(path))


def _compressed_lines(files: fsspec.AbstractFileSystem, path: str, kind: str) -> Iterator[bytes]:
    with files.open(path, "rb") as raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), kind) as stream:
        yield from io.BufferedReader(stream)


def _line_range(files: fsspec.AbstractFileSystem, path: str, start: int, stop: int) -> Iterator[bytes]:
    """The lines whose first byte lies in [start, stop): ranges that touch give every line exactly once."""
    with files.open(path, "rb", cache_type="none") as file:
        # One byte back: if it ends a line, the line at `start` is ours; otherwise it belongs to the range before.
        file.seek(max(0, start - 1))
        content: bytes = file.read(stop - max(0, start - 1))
        begin = 0 if start == 0 else content.find(b"\n") + 1
        if start > 0 and begin == 0:
            return
        while content and not content.endswith(b"\n"):
            more = file.read(TAIL_BYTES)
            line_end = more.find(b"\n") + 1
            content += more[:line_end] if line_end else more
            if not more:
                break
            if len(content) > stop - start + LINE_LIMIT_BYTES:
                raise DataError(f"{path} has a line of more than {LINE_LIMIT_BYTES >> 20} MiB")
    yield from io.BytesIO(content[begin:])
