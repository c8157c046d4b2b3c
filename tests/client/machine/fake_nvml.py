"""Power limits as NVIDIA's driver keeps them: in one place, for all processes, until somebody sets others.

Replaces NVML at its lowest boundary, with pynvml's own errors: no test computer has such a card.
"""

import json
from pathlib import Path
from typing import Any

import pynvml

DEFAULT_MW, LEAST_MW, MOST_MW = 200_000, 100_000, 250_000


class FakeNvml:
    """The functions that `card_power` uses. What a test changes holds in every process that has the same file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.open = 0

    @classmethod
    def with_cards(cls, path: Path, *cards: str) -> "FakeNvml":
        nvml = cls(path)
        nvml._save({"limits": dict.fromkeys(cards, DEFAULT_MW), "errors": {}, "divided": [], "sets": 0})
        return nvml

    @property
    def limits(self) -> dict[str, int]:
        """In milliwatts, by card."""
        return dict(self._state()["limits"])

    @property
    def sets(self) -> int:
        """How often a limit was set, by whomever computes."""
        return int(self._state()["sets"])

    def set_by_others(self, card: str, limit_mw: int) -> None:
        self._save(self._state() | {"limits": self.limits | {card: limit_mw}})

    def fail(self, **errors: int) -> None:
        """From now on: an error of NVML's, by function; without its first part, nvmlDevice."""
        self._save(self._state() | {"errors": errors})

    def divide(self, card: str) -> None:
        self._save(self._state() | {"divided": [card]})

    def take_out(self, card: str) -> None:
        self._save(self._state() | {"limits": {name: limit for name, limit in self.limits.items() if name != card}})

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)  # errors and constants

    def nvmlInit(self) -> None:  # noqa: N802
        self._may("Init")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._may("GetHandleByUUID")
        if uuid not in self.limits:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetMigMode(self, card: str) -> list[int]:  # noqa: N802
        if card not in self._state()["divided"]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetPowerManagementLimit(self, card: str) -> int:  # noqa: N802
        self._may("GetPowerManagementLimit")
        return self.limits[card]

    def nvmlDeviceGetPowerManagementLimitConstraints(self, _card: str) -> list[int]:  # noqa: N802
        self._may("GetPowerManagementLimitConstraints")
        return [LEAST_MW, MOST_MW]

    def nvmlDeviceSetPowerManagementLimit(self, card: str, limit_mw: int) -> None:  # noqa: N802
        assert self.open > 0
        self._may("SetPowerManagementLimit")
        if not LEAST_MW <= limit_mw <= MOST_MW:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        self.set_by_others(card, limit_mw)
        self._save(self._state() | {"sets": self.sets + 1})

    def _may(self, function: str) -> None:
        error = self._state()["errors"].get(function)
        if error is not None:
            raise pynvml.NVMLError(error)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._path.read_text())
        return state

    def _save(self, state: dict[str, Any]) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(state))
        partial.replace(self._path)
