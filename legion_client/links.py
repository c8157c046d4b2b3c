"""Whether a `legion://` link that is clicked comes to Legion: a desktop entry and mimeapps.list, or Windows' registry.

On macOS it is the Info.plist of the bundle that says so, and nothing is written here.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from legion.errors import StorageFailed, Unusable
from legion_client import registry
from legion_client.autostart import program, xdg_quoted
from legion_client.machine.volume import write_whole

SCHEME = "legion"
XDG_FILE = "legion-link.desktop"
MIME_TYPE = f"x-scheme-handler/{SCHEME}"
DEFAULTS = "[Default Applications]"
CLASS_KEY = rf"Software\Classes\{SCHEME}"
COMMAND_KEY = rf"{CLASS_KEY}\shell\open\command"
SYSTEMS = ("linux", "win32")


def is_known(system: str) -> bool:
    """Whether `system`, as sys.platform names it, has a place that a running program can write such a wish to."""
    return system in SYSTEMS


def is_on() -> bool:
    """Whether links come to Legion; what cannot be read counts as off."""
    try:
        if sys.platform == "win32":
            return registry.read(registry.module(), COMMAND_KEY, "") is not None
        return handler(os.environ) == XDG_FILE and _entry_file().exists()
    except (OSError, ValueError):
        return False


def switch(on: bool, *, takes_over: bool = True, started: Sequence[str] = ()) -> None:
    """`takes_over`: also from another program that has them. `started`: the command, by default this program's.

    StorageFailed when it cannot be written down."""
    if not is_known(sys.platform):
        raise Unusable(f"Legion cannot take links on {sys.platform}", hint="Paste the link into the window instead.")
    arguments = (*(started or program()), "--link")
    try:
        if sys.platform == "win32":
            _registry_switch(registry.module(), on, arguments, takes_over=takes_over)
        else:
            _xdg_switch(on, arguments, takes_over=takes_over)
    except (OSError, ValueError) as error:
        raise StorageFailed(
            f"the program that opens legion:// links cannot be changed: {error}",
            hint="Check that the folders of such entries are yours and can be written to.",
        ) from error


def desktop_entry(arguments: Sequence[str]) -> str:
    """Desktop Entry Specification 1.5. Not in menus: without a link there is nothing to open."""
    line = " ".join(xdg_quoted(argument) for argument in arguments)
    return (
        "[Desktop Entry]\nType=Application\nVersion=1.5\n"
        "Name=Legion\nComment=Join a run with an invite\n"
        f"Exec={line} %u\nIcon=legion\nTerminal=false\nNoDisplay=true\n"
        f"MimeType={MIME_TYPE};\n"
    )


def handler(environment: Mapping[str, str]) -> str | None:
    """The desktop file that opens such links by default, as the MIME Applications specification 1.0.1 looks it up."""
    for path in _lists(environment):
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        if found := _default_of(text):
            return found
    return None


def with_default(text: str, name: str | None) -> str:
    """A mimeapps.list that has `name` for these links, and all else as it was; None: nobody."""
    lines, place, inside = [], None, False
    for line in text.splitlines():
        if line.strip().startswith("["):
            inside = line.strip() == DEFAULTS
        if not (inside and _key(line) == MIME_TYPE):
            lines.append(line)
        if line.strip() == DEFAULTS and place is None:
            place = len(lines)
    if name is not None:
        if place is None:
            lines += [DEFAULTS]
            place = len(lines)
        lines.insert(place, f"{MIME_TYPE}={name}")
    return "".join(f"{line}\n" for line in lines)


def _default_of(text: str) -> str | None:
    inside = False
    for line in text.splitlines():
        if line.strip().startswith("["):
            inside = line.strip() == DEFAULTS
        elif inside and _key(line) == MIME_TYPE:
            return line.partition("=")[2].split(";")[0].strip() or None
    return None


def _key(line: str) -> str:
    return line.partition("=")[0].strip()


def _lists(environment: Mapping[str, str]) -> Iterator[Path]:
    desktops = [name.lower() for name in environment.get("XDG_CURRENT_DESKTOP", "").split(":") if name]
    config = [str(_config_home(environment)), *(environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")]
    data = (environment.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    data = [f"{folder}/applications" for folder in (str(_data_home(environment)), *data)]
    for folder in (*config, *data):
        for prefix in (*(f"{desktop}-" for desktop in desktops), ""):
            yield Path(folder) / f"{prefix}mimeapps.list"


def _config_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _data_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _entry_file() -> Path:
    return _data_home(os.environ) / "applications" / XDG_FILE


def _xdg_switch(on: bool, arguments: Sequence[str], *, takes_over: bool) -> None:
    entry, wishes = _entry_file(), _config_home(os.environ) / "mimeapps.list"
    text = wishes.read_text(encoding="utf-8") if wishes.exists() else ""
    if not on:
        entry.unlink(missing_ok=True)
        if _default_of(text) == XDG_FILE:
            _write(wishes, with_default(text, None))
        return
    _write(entry, desktop_entry(arguments))
    if takes_over or handler(os.environ) is None:
        _write(wishes, with_default(text, XDG_FILE))


def _write(path: Path, text: str) -> None:
    """Only what changes: a desktop looks through all entries again whenever one is written.

    Whole or not at all, because it has the choices of other programs too; a link to the file elsewhere stays one.
    """
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_whole(path.resolve(), text)


def _registry_switch(winreg: Any, on: bool, arguments: Sequence[str], *, takes_over: bool) -> None:
    if not on:
        for below in (r"\shell\open\command", r"\shell\open", r"\shell", ""):  # a key with keys below it stays
            registry.remove_key(winreg, CLASS_KEY + below)
    elif takes_over or registry.read(winreg, COMMAND_KEY, "") is None:
        registry.write(winreg, CLASS_KEY, "", "URL:Legion")
        registry.write(winreg, CLASS_KEY, "URL Protocol", "")
        registry.write(winreg, COMMAND_KEY, "", f'{registry.command_line(arguments)} "%1"')
