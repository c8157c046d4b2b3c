"""What a decision announces: the facts for everybody, and those that only authenticated callers see."""

from dataclasses import dataclass, field
from typing import Any

from legion.messages import EventType


@dataclass(frozen=True, slots=True)
class Happening:
    """An event before it has a number. `private` names workers or computers; anonymous callers never see it."""

    type: EventType
    data: dict[str, Any] = field(default_factory=dict)
    private: dict[str, Any] = field(default_factory=dict)
