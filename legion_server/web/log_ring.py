"""The newest records of the log, kept for the operator's page."""

import logging
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KEPT = 1000  # records
LONGEST = 2000  # characters of one
# Nothing should log a secret; this is for the day when a library does.
_SECRET = re.compile(r"(token=|bearer |password=|://[^:/@\s]+:)[^\s&@'\"]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kept:
    at: float  # s since 1970
    level: str
    name: str
    text: str


class LogRing(logging.Handler):
    """Bounded: the oldest record goes when a new one comes."""

    def __init__(self, kept: int = KEPT) -> None:
        super().__init__()
        self._kept: deque[Kept] = deque(maxlen=kept)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        self._kept.append(Kept(record.created, record.levelname.lower(), record.name, redacted(text)[:LONGEST]))

    def newest(self, least: str = "debug") -> list[Kept]:
        """Newest first, of this level and above."""
        bound = logging.getLevelNamesMapping().get(least.upper(), 0)
        levels = logging.getLevelNamesMapping()
        return [one for one in reversed(self._kept) if levels.get(one.level.upper(), 0) >= bound]

    @contextmanager
    def listening(self) -> Iterator[None]:
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)


def redacted(text: str) -> str:
    return _SECRET.sub(lambda found: f"{found[1]}...", text)
