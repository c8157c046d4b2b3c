"""One line of a `doctor`, the client's or the server's, and how all of them are told."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """`advice` says what to do about a problem."""

    name: str
    state: Literal["ok", "problem", "skipped"]
    found: str
    advice: str = ""

    def lines(self) -> list[str]:
        """For people."""
        mark = {"ok": "ok      ", "problem": "PROBLEM ", "skipped": "-       "}[self.state]
        said = [f"{mark}{self.name}: {self.found}"]
        return [*said, f"        -> {self.advice}"] if self.advice else said


def as_json(checks: Sequence[Check]) -> str:
    """For programs: `healthy` and every check."""
    told = [{"name": c.name, "state": c.state, "found": c.found, "advice": c.advice} for c in checks]
    return json.dumps({"healthy": is_healthy(checks), "checks": told})


def is_healthy(checks: Sequence[Check]) -> bool:
    return all(check.state != "problem" for check in checks)
