"""A card's own power limit, lowered while we compute on it, where the system lets us: steady, instead of by rests.

The limit is the computer's and outlives us. So it goes back when we no longer compute there, and a file remembers what
it was, for the start after a kill or a crash. A limit that somebody else has set since is left as it is.
"""

import contextlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from legion_client.machine.nvml import pynvml

logger = logging.getLogger(__name__)

WHOLE = 1.0


class Lowered(BaseModel, frozen=True):
    """What is on the card now, and what was."""

    uuid: str
    before_mw: int
    ours_mw: int


class PowerCap:
    """Of one card at a time. Belongs to one thread."""

    def __init__(self, path: Path, nvml: ModuleType | Any | None = pynvml) -> None:
        self._path = path
        self._nvml = nvml
        self._wanted: tuple[int, float] | None = None  # as asked for last
        self._held = WHOLE
        self._lowered = _read(path)

    def hold(self, wanted: tuple[int, float] | None) -> float:
        """Let a card draw a share (above 0 to 1) of its limit, or none do so; the share that it keeps to by itself now.

        1 where nobody may set it, and more than what is wanted where the card allows no less.
        """
        if self._nvml is None or (wanted is not None and wanted == self._wanted):
            return self._held
        self.release()
        self._wanted = wanted
        if wanted is not None and wanted[1] < WHOLE:
            self._held = self._lower(self._nvml, *wanted)
        return self._held

    def release(self) -> None:
        """The limit is what it was before `hold`, in this process or one before it."""
        self._wanted, self._held = None, WHOLE
        if self._nvml is None or self._lowered is None:
            return
        lowered, nvml = self._lowered, self._nvml
        self._lowered = None
        try:
            with _asking(nvml):
                handle = nvml.nvmlDeviceGetHandleByUUID(lowered.uuid)
                if nvml.nvmlDeviceGetPowerManagementLimit(handle) == lowered.ours_mw:
                    nvml.nvmlDeviceSetPowerManagementLimit(handle, lowered.before_mw)
                    logger.info("power limit restored card=%s watts=%.0f", lowered.uuid, lowered.before_mw / 1000)
        except nvml.NVMLError as error:
            logger.warning("power limit stays until the next start card=%s reason=%s", lowered.uuid, error)
            return
        self._forget()

    def _lower(self, nvml: Any, index: int, share: float) -> float:
        try:
            with _asking(nvml):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = nvml.nvmlDeviceGetUUID(handle)
                before = int(nvml.nvmlDeviceGetPowerManagementLimit(handle))
                least, _ = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
                ours = max(int(least), round(before * share))
                if ours >= before:
                    return WHOLE
                lowered = Lowered(uuid=uuid if isinstance(uuid, str) else uuid.decode(), before_mw=before, ours_mw=ours)
                self._remember(lowered)
                nvml.nvmlDeviceSetPowerManagementLimit(handle, ours)
        except (nvml.NVMLError, OSError) as error:  # no administrator, or a card without such a limit
            logger.info("power limit cannot be set card=%d reason=%s", index, error)
            self._forget()
            return WHOLE
        logger.info("power limit lowered card=%d watts=%.0f before=%.0f", index, ours / 1000, before / 1000)
        return ours / before

    def _remember(self, lowered: Lowered) -> None:
        """Before it is so: a kill in between must not leave a limit that nobody knows of."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(lowered.model_dump_json(), encoding="utf-8")
        self._lowered = lowered

    def _forget(self) -> None:
        self._lowered = None
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _asking(nvml: Any) -> Any:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _read(path: Path) -> Lowered | None:
    try:
        return Lowered.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        logger.warning("the power limit of before is not known path=%s reason=%s", path, error)
        return None
