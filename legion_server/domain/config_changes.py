"""How two configurations differ, name by name. Pure."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from legion.config import RunConfig


class Changed(NamedTuple):
    """A field by its dotted name, with both values as JSON."""

    name: str
    before: str
    after: str


def changes(before: RunConfig, after: RunConfig) -> list[Changed]:
    """In the order of the configuration."""
    old, new = (dict(_fields(config.model_dump(mode="json"))) for config in (before, after))
    return [Changed(name, old.get(name, ""), text) for name, text in new.items() if old.get(name) != text] + [
        Changed(name, text, "") for name, text in old.items() if name not in new
    ]


def told(before: RunConfig, after: RunConfig) -> str:
    """In a line."""
    return "; ".join(f"{one.name}: {one.before} -> {one.after}" for one in changes(before, after)) or "no change"


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _fields(inner, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value)
