"""Logging, configured once per process by its entry point; importing Legion configures nothing."""

import asyncio
import json
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

# Their debug records hold requests as they are signed, and keys as they were given.
OBJECT_STORES = ("fsspec", "s3fs", "botocore", "aiobotocore", "boto3", "urllib3", "gcsfs", "aiohttp")


def told_in_a_line(record: logging.LogRecord) -> bool:
    """A filter of gRPC's log: a peer that hung up before its answer was sent is no error of ours, nor a traceback.

    gRPC keeps silent about it by itself, but only where it has heard of the hanging up before it noticed that it
    cannot send. Whoever waits for that peer finds out what it means.
    """
    error = record.exc_info[1] if record.exc_info else None
    if type(error).__name__ == "ExecuteBatchError" and "SendStatusFromServerOperation" in str(error):
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args = "a peer hung up before its answer was sent", None
    return True


def without_requests_that_end_with_us(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: what ends a server is said once, not as a traceback of each request."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class JsonLines(logging.Formatter):
    """One JSON object a line: time (s since 1970), level, name, event."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "name": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(
    *, level: str = "info", file: Path | None = None, json_lines: bool = False, stream: TextIO | None = None
) -> None:
    """Send Legion's log to `stream` (default stderr) and, with `file`, to five rotating files of 10 MB."""
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(RotatingFileHandler(file, maxBytes=10_000_000, backupCount=5, encoding="utf-8"))
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s", "%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(JsonLines() if json_lines else plain)
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    for noisy in ("httpx", "httpcore", "asyncio", "datasets", "filelock", "aiosqlite", "alembic", *OBJECT_STORES):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("grpc._cython.cygrpc").addFilter(told_in_a_line)
    logging.getLogger("uvicorn.error").addFilter(without_requests_that_end_with_us)
