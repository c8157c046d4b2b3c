"""What the volunteer has decided: the settings in the file, and what was done by hand where no file takes it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from legion.errors import StorageFailed
from legion_client.settings import SettingsFile, change, read
from legion_client.settings.sections import Modes


class Decided:
    """`file` is what holds now; `look_again` reads it anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unkept: dict[str, Any] = {}  # modes by their dotted name
        self.file: SettingsFile = read(path)

    def look_again(self) -> None:
        file, defaults = read(self._path), Modes()
        by_hand = {
            (key := name.removeprefix("modes.")): getattr(defaults, key) if value is None else value
            for name, value in self._unkept.items()
        }
        modes = file.settings.modes.model_copy(update=by_hand)
        self.file = replace(file, settings=file.settings.model_copy(update={"modes": modes}))

    def steer(self, modes: Mapping[str, Any]) -> StorageFailed | None:
        """Modes by their dotted name; None is a default. They hold even where they cannot be written, as on a full
        disk: then as long as this program runs, and the answer says why."""
        failed: StorageFailed | None = None
        try:
            change(self._path, modes)
            for name in modes:
                self._unkept.pop(name, None)
        except StorageFailed as error:
            self._unkept |= modes
            failed = error
        self.look_again()
        return failed
