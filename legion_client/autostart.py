"""Whether Legion starts when its user logs in: an XDG entry, a value of Windows' Run key, or a macOS LaunchAgent.

Every system's own switch is respected: an entry that the user has disabled there counts as off.
"""

import os
import plistlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from legion.errors import StorageFailed, Unusable
from legion_client import registry

NAME = "Legion"
XDG_FILE = "legion.desktop"
AGENT_LABEL = "org.legion-training.client"
RUN_KEY = r"Software\Microsoft\Windows\CurrentVersion\Run"
APPROVED_KEY = r"Software\Microsoft\Windows\CurrentVersion\Explorer\StartupApproved\Run"
SYSTEMS = ("linux", "win32", "darwin")


def is_known(system: str) -> bool:
    """Whether `system`, as sys.platform names it, has a place for such an entry."""
    return system in SYSTEMS


def program() -> tuple[str, ...]:
    """How this program is started, without options."""
    return (sys.executable,) if getattr(sys, "frozen", False) else (sys.executable, "-m", "legion_client")


def is_on() -> bool:
    """What cannot be read counts as off."""
    try:
        if sys.platform == "win32":
            return _windows_is_on(registry.module())
        if sys.platform == "darwin":
            return not bool(plistlib.loads(_agent_file().read_bytes()).get("Disabled", False))
        return _xdg_is_on(_xdg_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def switch(on: bool, started: Sequence[str] = ()) -> None:
    """`started`: the command, by default this program's. StorageFailed when the entry cannot be changed."""
    if not is_known(sys.platform):
        raise Unusable(f"Legion cannot start by itself on {sys.platform}", hint="Add it to what your session starts.")
    arguments = tuple(started) or (*program(), "--background")
    try:
        if sys.platform == "win32":
            _windows_switch(registry.module(), on, arguments)
        elif sys.platform == "darwin":
            _file_switch(_agent_file(), agent_entry(arguments) if on else None)
        else:
            _file_switch(_xdg_file(), xdg_entry(arguments).encode() if on else None)
    except OSError as error:
        raise StorageFailed(
            f"the entry for starting at login cannot be changed: {error.strerror}",
            hint="Check that the folder of such entries is yours and can be written to.",
        ) from error


def xdg_entry(arguments: Sequence[str]) -> str:
    """Desktop Application Autostart Specification 0.5; the delay lets the panel come first."""
    line = " ".join(xdg_quoted(argument) for argument in arguments)
    return (
        "[Desktop Entry]\nType=Application\nVersion=1.5\n"
        f"Name={NAME}\nComment=Give idle time to train a language model together\n"
        f"Exec={line}\nIcon=legion\nTerminal=false\nStartupWMClass=legion\n"
        "X-GNOME-Autostart-enabled=true\nX-GNOME-Autostart-Delay=10\n"
    )


def agent_entry(arguments: Sequence[str]) -> bytes:
    """launchd.plist(5): once at login, not kept alive, since the volunteer may quit it."""
    return plistlib.dumps(
        {
            "Label": AGENT_LABEL,
            "ProgramArguments": list(arguments),
            "RunAtLoad": True,
            "ProcessType": "Background",
            "LimitLoadToSessionType": "Aqua",
        }
    )


def _xdg_file() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "autostart" / XDG_FILE


def _agent_file() -> Path:
    return Path.home() / "Library" / "LaunchAgents" / f"{AGENT_LABEL}.plist"


def _xdg_is_on(text: str) -> bool:
    entries = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    keys = {key.strip(): value.strip().lower() for key, value in entries.items()}
    return keys.get("Hidden") != "true" and keys.get("X-GNOME-Autostart-enabled", "true") == "true"


def xdg_quoted(argument: str) -> str:
    """Desktop Entry Specification, "The Exec key": reserved characters in double quotes, % doubled."""
    escaped = argument.replace("%", "%%")
    if shlex.quote(argument) == argument:
        return escaped
    for character in ("\\", '"', "`", "$"):
        escaped = escaped.replace(character, f"\\{character}")
    # The file's own string rule takes one layer of backslashes away first.
    return '"' + escaped.replace("\\", "\\\\") + '"'


def _file_switch(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _windows_is_on(winreg: Any) -> bool:
    """The Task Manager's switch: an odd first byte means disabled."""
    if registry.read(winreg, RUN_KEY, NAME) is None:
        return False
    state = registry.read(winreg, APPROVED_KEY, NAME)
    return not (isinstance(state, bytes) and state and state[0] & 1)


def _windows_switch(winreg: Any, on: bool, arguments: Sequence[str]) -> None:
    if on:
        registry.write(winreg, RUN_KEY, NAME, registry.command_line(arguments))
    else:
        registry.remove(winreg, RUN_KEY, NAME)
    registry.remove(winreg, APPROVED_KEY, NAME)
