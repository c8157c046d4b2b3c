"""The log as the volunteer may show it to others: without keys, addresses and the names of folders. Without Qt."""

import ipaddress
import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")
TAIL_BYTES = 512_000
_PLAIN = re.compile(r"(\d\d:\d\d:\d\d) (DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+(\S+) (.*)")
_KEY = re.compile(r"-----BEGIN [A-Z ]+-----.*?(-----END [A-Z ]+-----|\Z)", re.DOTALL)
_NAMED = re.compile(r"(?i)(\"?\b(?:\w*token|secret|password|authorization|api_?key)\"?\s*[=:]\s*)(\"[^\"]*\"|\S+)")
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (_KEY, "<key>"),
    (re.compile(r"legion://\S+"), "<invite>"),
    (re.compile(r"(?i)\b(bearer)\s+\S+"), r"\1 <token>"),
    (_NAMED, r"\1<token>"),
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "<e-mail>"),
    (re.compile(r"https?://[^\s\"'<>]+"), "<address>"),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])(:\d+)?"), "<address>"),
    (re.compile(r"\b[A-Za-z0-9_+/=-]{43,}\b"), "<token>"),
    (re.compile(r"(?<![\w<:/])(?:/[\w.@ +-]+?){2,}(?=[\s:,;'\")\]]|$)|\b[A-Za-z]:\\[^\s:,;'\"]+"), "<path>"),
)  # fmt: skip
_PERHAPS_ADDRESS = re.compile(r"[0-9a-fA-F:.%]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")


@dataclass(frozen=True, slots=True)
class Line:
    """One event; a traceback belongs to the line above it."""

    at: str
    level: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.at} {self.level.upper():7} {self.name} {self.text}"


def parse(text: str) -> list[Line]:
    """Both formats of `legion.logs`; a line of neither goes on with the one before."""
    lines: list[Line] = []
    for raw in text.splitlines():
        line = _of_json(raw) or _of_plain(raw)
        if line is not None:
            lines.append(line)
        elif lines:
            last = lines[-1]
            lines[-1] = Line(last.at, last.level, last.name, f"{last.text}\n{raw}")
    return lines


def _of_plain(raw: str) -> Line | None:
    found = _PLAIN.fullmatch(raw)
    return None if found is None else Line(found[1], _level(found[2]), found[3], found[4])


def _of_json(raw: str) -> Line | None:
    if not raw.startswith("{"):
        return None
    try:
        entry = json.loads(raw)
        at = f"{datetime.fromtimestamp(float(entry['time'])):%H:%M:%S}"
        text = str(entry["event"]) + (f"\n{entry['exception']}" if "exception" in entry else "")
        return Line(at, _level(str(entry["level"])), str(entry["name"]), text)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _level(word: str) -> str:
    word = word.lower()
    return "error" if word == "critical" else word if word in LEVELS else "info"


def from_level(lines: Iterable[Line], level: str) -> list[Line]:
    lowest = LEVELS.index(level)
    return [line for line in lines if LEVELS.index(line.level) >= lowest]


def tail(path: Path, most_bytes: int = TAIL_BYTES) -> str:
    """The file's end, from the first whole line on; nothing if there is no such file."""
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            file.seek(max(0, size_bytes - most_bytes))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return text if size_bytes <= most_bytes else text.partition("\n")[2]


def redact(text: str, *, names: Sequence[str] = ()) -> str:
    """`names`: what else must not be read, such as this computer's and the user's."""
    text = _PERHAPS_ADDRESS.sub(_without_address, text)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    for name in sorted({name for name in names if len(name) > 2}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", text)
    return text


def _without_address(found: re.Match[str]) -> str:
    """A time of day looks like a part of an IPv6 address, and is none."""
    try:
        ipaddress.ip_address(found[0].strip("."))
    except ValueError:
        return found[0]
    return "<address>"


def bug_report(version: str, state: str, lines: Iterable[Line], names: Sequence[str] = ()) -> str:
    """What to paste: the version, the system, what the program says of itself, and the log; redacted."""
    head = f"Legion {version} on {platform.system()} {platform.release()}, Python {platform.python_version()}"
    body = redact("\n".join([state, "", *map(str, lines)]), names=names)
    return f"{head}\n{body}\n"
