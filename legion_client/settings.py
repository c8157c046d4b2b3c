"""What the volunteer decided. The program reads it and never writes it; what it remembers by itself lies elsewhere."""

import platform
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from legion.errors import Unusable


class Settings(BaseModel, frozen=True, extra="forbid"):
    """`settings.toml`. A missing file means the defaults; command line options override both."""

    name: Annotated[str, Field(min_length=1, max_length=64)] = Field(default_factory=lambda: _host_name())
    listen_host: str | None = None  # where other members reach this computer; None: the way it reaches the server
    listen_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free port


def load(path: Path) -> Settings:
    """The settings in `path`; Unusable names the file and the field that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} cannot be read: {error}") from error
    try:
        return Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise Unusable(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise Unusable(f"{path}: {problems(error)}") from error


def override(settings: Settings, **chosen: str | int | None) -> Settings:
    """`settings` with every option that was given (is not None) in place of its own."""
    given = {key: value for key, value in chosen.items() if value is not None}
    try:
        return Settings.model_validate(settings.model_dump() | given)
    except ValidationError as error:
        raise Unusable(f"a command line option is not valid: {problems(error)}") from error


def problems(error: ValidationError) -> str:
    """One line: each field with what is wrong with it."""
    return "; ".join(
        f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}" for entry in error.errors(include_url=False)
    )


def _host_name() -> str:
    return platform.node()[:64] or "unnamed"
