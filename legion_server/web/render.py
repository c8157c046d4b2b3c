"""Pages for browsers: `page` for a whole one, `fragment` for a part that static/live.js fetches again.

Templates extend layout.html; macros for charts, tables and forms are in charts.html and parts.html.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from legion import __version__
from legion.messages import Problem
from legion_server.backend import Backend
from legion_server.web import charts
from legion_server.web.assets import static_url

# Sent with pages only; `security.Headers` adds what every answer has.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
LEAST_SHOWN = 0.001
PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"static": static_url, "version": __version__, "charts": charts}
    environment.globals |= {"volunteer_path": volunteer_path}
    environment.filters |= {"count": count, "short": short, "bytes": size, "when": when, "span": span, "fixed": fixed}
    return environment


def page(
    request: Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """A whole page. Templates also see `request`, and `session`, which is None where nobody is signed in."""
    return HTMLResponse(render(request, template, **context), status, {**HEADERS, **(headers or {})})


fragment = page  # the same: a template that does not extend the layout


def render(request: Request, template: str, **context: Any) -> str:
    """The text alone. Raises what Jinja raises: a template that lacks a value is a fault of ours."""
    session = getattr(request.state, "session", None)
    backend = getattr(request.app.state, "backend", None)
    event = backend.events.last if isinstance(backend, Backend) else 0
    found = _environment().get_template(template)
    return found.render(request=request, session=session, newest_event=event, **context)


def problem_page(request: Request, problem: Problem, headers: Mapping[str, str]) -> HTMLResponse:
    """For a person what the problem document is for a program."""
    return page(request, "problem.html", status=problem.status, headers=headers, problem=problem)


# How values are shown.


def count(value: float) -> str:
    """Whole, with thousands apart: 1,234,567."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """Three digits and a prefix: 1.23 M. What is smaller than a thousandth is told to be so."""
    for prefix, factor in PREFIXES:
        if abs(value) >= factor * 0.9995:
            scaled = value / factor
            return f"{scaled:.{max(0, 2 - math.floor(math.log10(abs(scaled) * 1.0005)))}f} {prefix}"
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= LEAST_SHOWN else f"< {LEAST_SHOWN}"


def size(value: float) -> str:
    """Bytes: 1.5 MiB."""
    for unit in BYTE_UNITS[:-1]:
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {BYTE_UNITS[-1]}"


def when(at: float) -> str:
    """A moment, in UTC: the server does not know where the reader lives."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """How long, in its two largest units: 2 h 5 min."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def volunteer_path(nickname: str) -> str:
    """Of a volunteer's page: names have letters of all alphabets."""
    return "/volunteers/" + quote(nickname, safe="")


def fixed(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where there is none."""
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
