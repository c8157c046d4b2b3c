"""What the volunteer has decided: the settings in the file, and what was done by hand where no file takes it."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from legion.errors import LegionError
from legion_client.settings import Settings, SettingsFile, change, differences, read
from legion_client.settings.sections import Modes

logger = logging.getLogger(__name__)


class Decided:
    """`file` is what holds now; `look_again` reads it anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unkept: dict[str, Any] = {}  # modes by their dotted name
        self._mark = _mark(path)
        self.file: SettingsFile = read(path)

    def look_again(self) -> None:
        self._mark = _mark(self._path)
        file, defaults = read(self._path), Modes()
        unkept = {
            (key := name.removeprefix("modes.")): getattr(defaults, key) if value is None else value
            for name, value in self._unkept.items()
        }
        modes = file.settings.modes.model_copy(update=unkept)
        before = self.file.settings
        self.file = replace(file, settings=file.settings.model_copy(update={"modes": modes}))
        for difference in differences(before, self.file.settings):
            logger.info("setting %s", difference)

    def heed_edits(self) -> bool:
        """Whether somebody else, an editor perhaps, has written the file since it was read; then it is read anew."""
        if _mark(self._path) == self._mark:
            return False
        self.look_again()
        return True

    def steer(self, modes: Mapping[str, Any]) -> LegionError | None:
        """Modes by their dotted name; None is a default. They hold even where they cannot be written, as on a full
        disk or in a file that is no TOML: then as long as this program runs, and the answer says why."""
        failed: LegionError | None = None
        try:
            change(self._path, modes)
            for name in modes:
                self._unkept.pop(name, None)
        except LegionError as error:
            self._unkept |= modes
            failed = error
        self.look_again()
        return failed


def by_hand(settings: Settings, name: str) -> Settings:
    """Where nobody shares the computer, only what was asked for by hand is left of the rules."""
    modes = settings.modes
    always = {axis: "always" for axis in ("cpu", "gpu", "network") if getattr(modes, axis) == "auto"}
    return Settings(name=name, modes=modes.model_copy(update=always))


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Changes with the file; None where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
