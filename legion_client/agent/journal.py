"""What happened and why, in sentences: the newest ones, over restarts of the agent.

One JSON object a line. The file holds at most twice MOST lines, then the older half goes.
"""

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from legion_client.control.messages import Happening, Level, Said

logger = logging.getLogger(__name__)

MOST = 2000


class Journal:
    """A disk that takes nothing, or holds nonsense, costs the past and nothing else."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, most: int = MOST) -> None:
        """`clock`: s since 1970."""
        self._path = path
        self._clock = clock
        self._most = most
        lines = self._read()
        self._lines = len(lines)
        self._happenings: deque[Happening] = deque((h for h in map(_parsed, lines) if h is not None), maxlen=most)
        self._numbers = itertools.count(self._happenings[-1].number + 1 if self._happenings else 1)
        self.on_happening: Callable[[Happening], None] = lambda _happening: None

    def add(self, kind: str, *said: Said | str, level: Level = "info") -> Happening:
        """`said`: one sentence after the other; a text alone has no values."""
        parts = tuple(one if isinstance(one, Said) else Said(text=one) for one in said)
        happening = Happening(
            number=next(self._numbers),
            at=self._clock(),
            level=level,
            kind=kind,
            sentence=" ".join(map(str, parts)),
            said=parts,
        )
        self._happenings.append(happening)
        self._write(happening)
        self.on_happening(happening)
        return happening

    def after(self, number: int, most: int) -> Sequence[Happening]:
        """The newest `most` of those behind `number`, oldest first."""
        return [happening for happening in self._happenings if happening.number > number][-most:]

    def newest(self, kind: str) -> Happening | None:
        return next((happening for happening in reversed(self._happenings) if happening.kind == kind), None)

    def _read(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.warning("activity cannot be read path=%s reason=%s", self._path, error.strerror)
            return []

    def _write(self, happening: Happening) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._lines >= 2 * self._most:
                self._rewrite()
                return
            with self._path.open("a", encoding="utf-8") as file:
                file.write(happening.model_dump_json() + "\n")
            self._lines += 1
        except OSError as error:
            logger.warning("activity cannot be written path=%s reason=%s", self._path, error.strerror)

    def _rewrite(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text("".join(h.model_dump_json() + "\n" for h in self._happenings), encoding="utf-8")
        new.replace(self._path)
        self._lines = len(self._happenings)


def _parsed(line: str) -> Happening | None:
    try:
        return Happening.model_validate_json(line)
    except ValidationError:  # the half line of a power cut
        return None
