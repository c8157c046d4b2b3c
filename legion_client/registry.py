"""The user's own part of Windows' registry, HKEY_CURRENT_USER. `winreg` is given, so that this runs anywhere."""

import importlib
from collections.abc import Sequence
from typing import Any


def module() -> Any:
    """Python's `winreg`, which Windows alone has."""
    return importlib.import_module("winreg")


def read(winreg: Any, key: str, name: str) -> Any:
    """None for a value that is not there; "" names the key's own."""
    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, key) as opened:
            return winreg.QueryValueEx(opened, name)[0]
    except FileNotFoundError:
        return None


def write(winreg: Any, key: str, name: str, text: str) -> None:
    """Makes the key, if it is not there."""
    with winreg.CreateKey(winreg.HKEY_CURRENT_USER, key) as opened:
        winreg.SetValueEx(opened, name, 0, winreg.REG_SZ, text)


def remove(winreg: Any, key: str, name: str) -> None:
    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, key, 0, winreg.KEY_SET_VALUE) as opened:
            winreg.DeleteValue(opened, name)
    except FileNotFoundError:
        return


def remove_key(winreg: Any, key: str) -> None:
    """One that has no keys below it."""
    try:
        winreg.DeleteKey(winreg.HKEY_CURRENT_USER, key)
    except FileNotFoundError:
        return


def command_line(arguments: Sequence[str]) -> str:
    """Every argument in quotes, as programs that are named there want it."""
    return " ".join(f'"{argument}"' for argument in arguments)
