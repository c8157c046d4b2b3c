"""What a system says about the program in front."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScreenUse:
    full_screen: bool | None = None
    game: bool | None = None
