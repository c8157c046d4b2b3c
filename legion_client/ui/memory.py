"""What the window remembers by itself: its size, the theme, and what the volunteer needs not be asked or told again.

Plain dataclasses: pydantic takes longer to import than the icon, which has the theme's colours, to show.
"""

import json
import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

logger = logging.getLogger(__name__)

Choice = Literal["auto", "light", "dark"]


@dataclass(frozen=True, slots=True)
class Remembered:
    """Unknown fields of a newer version are left out; a damaged file means the defaults."""

    theme: Choice = "auto"
    width: int = 0  # in device-independent pixels; 0: the size that fits the text
    height: int = 0
    page: str = "home"
    told_without_tray: bool = False
    told_closing: bool = False
    quits_unasked: bool = False
    wizard_done: bool = False
    takes_links: bool = False  # has asked the system for them, which the volunteer may have undone since
    sees_advanced: bool = False


class Memory:
    """Written when something changes; a folder that cannot be written to costs the memory, not the window."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.now = _read(path)

    def keep(self, **changes: Any) -> None:
        changed = replace(self.now, **changes)
        if changed == self.now:
            return
        self.now = changed
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(asdict(changed), indent=1), encoding="utf-8")
        except OSError as error:
            logger.warning("the window's state is not saved path=%s error=%s", self._path, error)


def _read(path: Path) -> Remembered:
    try:
        return _parsed(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Remembered()
    except (OSError, ValueError) as error:
        logger.warning("the window's state cannot be read path=%s error=%s", path, error)
        return Remembered()


def _parsed(found: object) -> Remembered:
    """ValueError when it is not what `Memory` writes."""
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    known = {field.name: field.default for field in fields(Remembered)}
    values = {name: value for name, value in found.items() if name in known}
    wrong = [name for name, value in values.items() if type(value) is not type(known[name])]
    if wrong or values.get("theme", "auto") not in get_args(Choice):
        raise ValueError(f"wrong values of {', '.join(wrong) or 'theme'}")
    return Remembered(**values)
