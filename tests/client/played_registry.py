"""Python's `winreg` on any system: keys with values in memory, and the errors of the real one."""

from types import ModuleType, TracebackType
from typing import Any, Self


class Key:
    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlayedRegistry(ModuleType):
    """Of HKEY_CURRENT_USER alone."""

    HKEY_CURRENT_USER, KEY_READ, KEY_SET_VALUE, REG_SZ, REG_BINARY = object(), 0x20019, 0x2, 1, 3

    def __init__(self) -> None:
        super().__init__("winreg")
        self.keys: dict[str, dict[str, Any]] = {"Software": {}}

    def OpenKey(self, root: object, path: str, reserved: int = 0, access: int = KEY_READ) -> Key:  # noqa: N802
        assert (root, reserved) == (self.HKEY_CURRENT_USER, 0)
        if path not in self.keys:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        return Key(path)

    def CreateKey(self, root: object, path: str) -> Key:  # noqa: N802
        assert root is self.HKEY_CURRENT_USER
        parts = path.split("\\")
        for count in range(1, len(parts) + 1):
            self.keys.setdefault("\\".join(parts[:count]), {})
        return Key(path)

    def QueryValueEx(self, key: Key, name: str) -> tuple[Any, int]:  # noqa: N802
        if name not in self.keys[key.path]:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        value = self.keys[key.path][name]
        return value, self.REG_BINARY if isinstance(value, bytes) else self.REG_SZ

    def SetValueEx(self, key: Key, name: str, reserved: int, kind: int, value: Any) -> None:  # noqa: N802
        assert (reserved, kind) == (0, self.REG_SZ)
        self.keys[key.path][name] = value

    def DeleteValue(self, key: Key, name: str) -> None:  # noqa: N802
        if name not in self.keys[key.path]:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        del self.keys[key.path][name]

    def DeleteKey(self, root: object, path: str) -> None:  # noqa: N802
        if path not in self.keys:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        if any(other.startswith(f"{path}\\") for other in self.keys):
            raise PermissionError(13, "Access is denied")
        del self.keys[path]
