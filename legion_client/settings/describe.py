"""Every setting by its dotted name: for `settings list`, for the documentation, for preferences with a search."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from legion.errors import NotFound, Unusable
from legion_client.settings.sections import Settings

Kind = Literal["switch", "number", "choice", "text", "list", "time"]

_KINDS: dict[Any, Kind] = {"boolean": "switch", "integer": "number", "number": "number", "array": "list"}


@dataclass(frozen=True, slots=True)
class Setting:
    """What can be said of a setting without its value; a widget and a line of help are made of it."""

    name: str  # dotted, as in the file
    kind: Kind
    default: Any  # as JSON has it; None: not set
    description: str
    unit: str = ""
    choices: tuple[str, ...] = ()  # of a choice
    least: float | None = None  # of a number
    most: float | None = None
    whole: bool = False  # a number without fractions
    items: Kind | None = None  # of a list

    @property
    def section(self) -> str:
        """Its table in the file; empty for what stands above all tables."""
        return self.name.rpartition(".")[0]

    @property
    def shown_default(self) -> str:
        """As it would stand in the file; empty if it is found on each computer, or stands for "not set"."""
        return "" if self.default is None else json.dumps(self.default, ensure_ascii=False)

    def matches(self, words: str) -> bool:
        """Whether all `words` are found in its name or description, as a search box wants it."""
        text = f"{self.name} {self.name.replace('_', ' ')} {self.description}".casefold()
        return all(word in text for word in words.casefold().split())


@cache
def describe() -> Mapping[str, Setting]:
    """All settings in the order of the file."""
    return {name: _setting(name, field) for name, field in _fields(Settings)}


def values(settings: Settings) -> dict[str, Any]:
    """By dotted name, as JSON has them."""
    return dict(_flat(settings.model_dump(mode="json")))


def differences(before: Settings, after: Settings) -> list[str]:
    """What has changed, a line each, for the log: "idle.minutes: 3 -> 5 minutes"."""
    old, new = values(before), values(after)
    told = {name: one.unit and f" {one.unit}" for name, one in describe().items() if old[name] != new[name]}
    return [f"{name}: {json.dumps(old[name])} -> {json.dumps(new[name])}{unit}" for name, unit in told.items()]


def chosen(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that a file's `document` names, in the order of the file."""
    named = {name for name, _ in _flat(document)}
    return tuple(name for name in describe() if name in named)


def known(name: str) -> Setting:
    """NotFound says what is near."""
    found = describe().get(name)
    if found is None:
        last = name.rpartition(".")[2]
        near = [each for each in describe() if each.rpartition(".")[2] == last]
        also = f"; did you mean {' or '.join(near)}?" if near else ""
        raise NotFound(f"there is no setting {name}{also}", hint="'legion-client settings list' shows all of them.")
    return found


def parse(name: str, text: str) -> Any:
    """What somebody typed for setting `name`, for `change`; null and nothing at all mean its default."""
    setting = known(name)
    stripped = text.strip()
    if stripped in ("", "null"):
        return None
    if setting.kind in ("text", "choice", "time"):
        return text
    if setting.kind == "switch" and stripped.lower() in ("yes", "on", "true", "no", "off", "false"):
        return stripped.lower() in ("yes", "on", "true")
    if setting.kind == "list" and not stripped.startswith("["):
        parts = [part.strip() for part in stripped.split(",")]
        return [int(part) if setting.items == "number" and part.isdecimal() else part for part in parts]
    try:
        return json.loads(stripped)
    except ValueError as error:
        raise Unusable(f"{name}: {text!r} is not a {setting.kind}") from error


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _setting(name: str, field: FieldInfo) -> Setting:
    schema = _schema(field)
    extra = field.json_schema_extra
    default = None if field.default_factory else field.default
    return Setting(
        name=name,
        kind=_kind(schema),
        default=list(default) if isinstance(default, tuple) else default,
        description=field.description or "",
        unit=str(extra.get("unit", "")) if isinstance(extra, dict) else "",
        choices=tuple(schema.get("enum", ())),
        least=schema.get("minimum"),
        most=schema.get("maximum"),
        whole=schema.get("type") == "integer",
        items=_kind(schema["items"]) if "items" in schema else None,
    )


def _schema(field: FieldInfo) -> dict[str, Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    schema = adapter.json_schema()
    # None only means "not set"; what a value looks like stands beside it.
    return next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)


def _kind(schema: Mapping[str, Any]) -> Kind:
    if "enum" in schema:
        return "choice"
    if schema.get("format") == "date-time":
        return "time"
    return _KINDS.get(schema.get("type"), "text")
