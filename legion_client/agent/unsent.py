"""Records that wait for the server, on disk: a killed agent's are sent by the next one of the same home.

One JSON object a line; a record stands in the file until the server has acknowledged it, so one may be sent twice, and
the server keeps the first. What a power cut takes is the newest second or so: nothing here waits for the disk.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from legion.ids import Epoch, RunId
from legion.reports import EvaluationRecord, StepRecord, TextSample

logger = logging.getLogger(__name__)

Record = StepRecord | EvaluationRecord | TextSample
Waiting = tuple[Epoch, Record]


class _Line(BaseModel, frozen=True, extra="forbid"):
    """Exactly one of the records."""

    epoch: Epoch
    step: StepRecord | None = None
    evaluation: EvaluationRecord | None = None
    sample: TextSample | None = None

    @property
    def record(self) -> Record | None:
        return self.step or self.evaluation or self.sample


class Unsent:
    """A disk that takes nothing costs what a kill would lose, and nothing else: the log says so once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def read(self) -> list[Waiting]:
        """What an agent before has left, oldest first; lines that cannot be read are left out."""
        try:
            # Not at what else Unicode breaks lines at: a text may have it.
            lines = self._path.read_bytes().decode(errors="replace").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.warning("unsent records cannot be read path=%s reason=%s", self._path, error.strerror)
            return []
        written = [line for line in lines if line]
        found = list(_parsed(written))
        if len(found) < len(written):
            logger.warning("unsent records damaged path=%s lines=%d", self._path, len(written) - len(found))
        return found

    def add(self, waiting: Waiting) -> None:
        self._write([waiting], "a")

    def replace(self, waiting: Iterable[Waiting]) -> None:
        """These are left, and no others."""
        self._write(waiting, "w")

    def _write(self, waiting: Iterable[Waiting], mode: str) -> None:
        text = "".join(_line(*each) for each in waiting)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            target = self._path if mode == "a" else self._path.with_suffix(".new")
            with target.open(mode, encoding="utf-8", newline="\n") as file:
                file.write(text)
            if target != self._path:
                target.replace(self._path)
        except OSError as error:
            if not self._failed:
                logger.warning("records cannot be kept path=%s reason=%s", self._path, error.strerror)
            self._failed = True
        else:
            self._failed = False


def unsent_at(folder: Path, run: RunId) -> Unsent:
    """Of this run; what waits for another one, that was left, goes."""
    path = folder / f"unsent-{run}.jsonl"
    for other in folder.glob("unsent-*.jsonl"):
        if other != path:
            logger.info("records of a run that was left are dropped path=%s", other)
            with contextlib.suppress(OSError):
                other.unlink(missing_ok=True)
    return Unsent(path)


def _line(epoch: Epoch, record: Record) -> str:
    match record:
        case StepRecord():
            line = _Line(epoch=epoch, step=record)
        case EvaluationRecord():
            line = _Line(epoch=epoch, evaluation=record)
        case TextSample():
            line = _Line(epoch=epoch, sample=record)
    return line.model_dump_json(exclude_none=True) + "\n"


def _parsed(lines: Iterable[str]) -> Iterator[Waiting]:
    for line in lines:
        try:
            parsed = _Line.model_validate_json(line)
        except ValidationError:  # the half line of a kill or a power cut
            continue
        if parsed.record is not None:
            yield parsed.epoch, parsed.record
