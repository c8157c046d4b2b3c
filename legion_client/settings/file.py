"""`settings.toml`: read with what is wrong in it said in a sentence, changed all or nothing.

A file that a newer Legion wrote, or that is not TOML, is never written to.
"""

import logging
import os
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions
from pydantic import ValidationError

from legion.errors import LegionError, StorageFailed, Unusable
from legion_client.settings.describe import chosen, known
from legion_client.settings.sections import VERSION, Settings

logger = logging.getLogger(__name__)

VERSION_KEY = "version"
MOST_BYTES = 1_000_000
CORRECT = "Correct the file, or move it away for the defaults."


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What could be read. `problem`: one sentence, if something is wrong, with what is used instead."""

    settings: Settings
    problem: str = ""
    hint: str = ""  # what to do about it
    # False: nobody knows what the volunteer decided. The window and the commands work, but nothing may be computed.
    usable: bool = True
    chosen: tuple[str, ...] = ()  # by the volunteer; all else are defaults


def load(path: Path) -> Settings:
    """The settings in `path`; Unusable names the file and the field that is wrong."""
    found = read(path)
    if not found.problem:
        return found.settings
    if found.usable and not found.chosen and _is_empty(path):
        logger.warning("%s", found.problem)
        return found.settings
    raise Unusable(found.problem, hint=found.hint)


def read(path: Path) -> SettingsFile:
    """As much of `path` as can be used; never raises.

    A setting that is unknown or wrong has its default, and all others hold. With a file that cannot be read at all,
    the volunteer's rules are unknown: see `SettingsFile.usable`.
    """
    try:
        document = _document(path)
    except LegionError as error:
        return SettingsFile(Settings(), str(error), error.hint, usable=False)
    if document is None:
        return SettingsFile(Settings())
    if not document and _is_empty(path):
        return SettingsFile(Settings(), f"{path} is empty: the defaults hold", CORRECT)
    settings, wrong = _mended(document)
    problem = f"{path}: {wrong}: the default holds there, and all other settings hold" if wrong else ""
    return SettingsFile(settings, problem, CORRECT if wrong else "", chosen=chosen(document))


def override(settings: Settings, **given: str | int | None) -> Settings:
    """`settings` with every option that was given (is not None) in place of its own."""
    options = {key: value for key, value in given.items() if value is not None}
    try:
        return Settings.model_validate(settings.model_dump() | options)
    except ValidationError as error:
        raise Unusable(f"a command line option is not valid: {problems(error)}") from error


def change(path: Path, values: Mapping[str, Any]) -> Settings:
    """Writes `values` by dotted name, all or none; None takes a setting back to its default. Returns what holds now.

    Comments, order and whatever else stands in the file stay. Raises Unusable for a value or a file that cannot be
    used, NotFound for a name, StorageFailed when the file cannot be written; the file is then as it was.
    """
    for name in values:
        known(name)
    before = _document(path)
    text = _text(path) or ""
    after = _changed(before or {}, values)
    settings = _checked(before or {}, after, path)
    new = _edited(text, values, after, path)
    if new != text:
        _replace(path, new)
    return settings


def problems(error: ValidationError) -> str:
    """One line: each field with what is wrong with it."""
    return "; ".join(
        f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg'].removeprefix('Value error, ')}"
        for entry in error.errors(include_url=False)
    )


def _is_empty(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size == 0
    return False


def _text(path: Path) -> str | None:
    """None: there is no such file."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Unusable(f"{path} is larger than {MOST_BYTES:,} bytes: that is no file of settings", hint=CORRECT)
        # Bytes that are decoded here, because text mode would change line ends on its way.
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise Unusable(f"{path} cannot be read: it is not text in UTF-8", hint=CORRECT) from error
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror or error}", hint=CORRECT) from error


def _document(path: Path) -> dict[str, Any] | None:
    """Without its version. None: there is no such file. Unusable: nothing in it can be trusted."""
    text = _text(path)
    if text is None:
        return None
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Unusable(f"{path} is not TOML: {error}", hint=CORRECT) from error
    version = document.pop(VERSION_KEY, VERSION)
    if type(version) is not int or version < 1:
        raise Unusable(f"{path}: {VERSION_KEY} is {version!r}; this Legion writes {VERSION}", hint=CORRECT)
    if version > VERSION:
        raise Unusable(
            f"{path} was written by a newer Legion (version {version} of the file, this one knows {VERSION}); "
            "it stays as it is",
            hint="Update Legion, or move the file away for the defaults.",
        )
    return document


def _mended(document: Mapping[str, Any]) -> tuple[Settings, str]:
    """Settings of all that is right in `document`, and what is wrong with the rest."""
    kept = _copy(document)
    wrong: list[str] = []
    # Every round takes at least one wrong entry away, and nothing at all is right.
    while True:
        try:
            return Settings.model_validate(kept), "; ".join(wrong)
        except ValidationError as error:
            wrong.append(problems(error))
            for entry in error.errors(include_url=False):
                _drop(kept, tuple(str(part) for part in entry["loc"]))


def _drop(document: dict[str, Any], place: tuple[str, ...]) -> None:
    """The setting or section that an error's place lies in; another error may have taken it already."""
    section = document.get(place[0])
    if isinstance(section, dict) and len(place) > 1:
        section.pop(place[1], None)
    else:
        document.pop(place[0], None)


def _changed(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    after = _copy(document)
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        table = after if not section else after.setdefault(section, {})
        if not isinstance(table, dict):
            raise Unusable(f"{section} is not a section in the file, but {table!r}; nothing has changed")
        if value is None:
            table.pop(key, None)
        else:
            table[key] = _plain(name, value)
    return {key: value for key, value in after.items() if value != {} or key in document}


def _checked(before: Mapping[str, Any], after: dict[str, Any], path: Path) -> Settings:
    """What holds after a change; a mistake that stood in the file before does not forbid to change something else."""
    _, wrong_before = _mended(before)
    settings, wrong = _mended(after)
    new = [one for one in wrong.split("; ") if one and one not in wrong_before.split("; ")]
    if new:
        raise Unusable(f"{'; '.join(new)}; nothing has changed in {path}")
    return settings


def _plain(name: str, value: Any) -> Any:
    """As TOML has it: a time that came as a text or a number becomes one that people can read."""
    if known(name).kind == "time":
        try:
            section, key = name.split(".")
            moment = getattr(getattr(Settings.model_validate({section: {key: value}}), section), key)
        except ValidationError as error:
            raise Unusable(f"{problems(error)}; nothing has changed") from error
        assert isinstance(moment, datetime)
        return moment.astimezone().replace(microsecond=0)
    return list(value) if isinstance(value, tuple) else value


def _edited(text: str, values: Mapping[str, Any], after: Mapping[str, Any], path: Path) -> str:
    """`text` with the changes in it. What TOML's other reader finds there must be `after`, or nothing is written."""
    try:
        document = tomlkit.parse(text)
        if VERSION_KEY not in document:
            document.add(VERSION_KEY, VERSION)
        for name in values:
            section, _, key = name.rpartition(".")
            value = (after.get(section, {}) if section else after).get(key)
            _put(document, section, key, value)
        new = document.as_string()
        written = tomllib.loads(new)
    except (tomlkit.exceptions.TOMLKitError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise Unusable(f"{path} could not be changed ({error}); nothing has changed") from error
    written.pop(VERSION_KEY, None)
    if _without_empty(written) != _without_empty(after):
        raise Unusable(f"{path} is written in a way that cannot be changed here; nothing has changed")
    return new


def _put(document: tomlkit.TOMLDocument, section: str, key: str, value: Any) -> None:
    table: Any = document
    if section:
        if section not in document:
            if value is None:
                return
            document.add(section, tomlkit.table())
        table = document[section]
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value != {}}


def _replace(path: Path, text: str) -> None:
    """Atomically; a link keeps pointing at the file that is replaced."""
    place = path.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # A rename would replace a file that the volunteer has locked on purpose.
        if place.exists() and not place.stat().st_mode & 0o222:
            raise PermissionError("it is read-only")
        descriptor, partial = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                Path(partial).chmod(place.stat().st_mode & 0o777)
            Path(partial).replace(place)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageFailed(
            f"{path} could not be written ({reason}); it is as it was",
            hint="Make the file and its folder writable, or choose another folder with --home.",
        ) from error


def _copy(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in document.items()}
