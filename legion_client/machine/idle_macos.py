"""Since when nobody has touched this Mac."""

import math
from typing import Any

COMBINED_SESSION_STATE = 0
ANY_INPUT = 0xFFFFFFFF


class LastEvent:
    """With the ApplicationServices framework, whose function's types the caller has set."""

    def __init__(self, application_services: Any) -> None:
        self._framework = application_services

    def read(self) -> float | None:
        idle_s = float(self._framework.CGEventSourceSecondsSinceLastEventType(COMBINED_SESSION_STATE, ANY_INPUT))
        return idle_s if math.isfinite(idle_s) and idle_s >= 0 else None
