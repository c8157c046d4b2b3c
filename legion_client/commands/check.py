"""One line of `doctor`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """`advice` says what to do about a problem."""

    name: str
    state: Literal["ok", "problem", "skipped"]
    found: str
    advice: str = ""
