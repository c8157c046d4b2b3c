"""What the window remembers by itself: its size, the theme, and what the volunteer needs not be asked or told again."""

import logging
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

logger = logging.getLogger(__name__)


class Remembered(BaseModel, extra="ignore"):
    """Unknown fields of a newer version are left out; a damaged file means the defaults."""

    theme: Literal["auto", "light", "dark"] = "auto"
    width: int = 0  # in device-independent pixels; 0: the size that fits the text
    height: int = 0
    page: str = "home"
    told_without_tray: bool = False
    told_closing: bool = False
    quits_unasked: bool = False
    wizard_done: bool = False
    sees_advanced: bool = False


class Memory:
    """Written when something changes; a folder that cannot be written to costs the memory, not the window."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.now = _read(path)

    def keep(self, **changes: object) -> None:
        changed = self.now.model_copy(update=changes)
        if changed == self.now:
            return
        self.now = changed
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(changed.model_dump_json(indent=1), encoding="utf-8")
        except OSError as error:
            logger.warning("the window's state is not saved path=%s error=%s", self._path, error)


def _read(path: Path) -> Remembered:
    try:
        return Remembered.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Remembered()
    except (OSError, ValidationError) as error:
        logger.warning("the window's state cannot be read path=%s error=%s", path, error)
        return Remembered()
