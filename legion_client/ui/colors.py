"""The colours of both themes, each with a name of its own, and how well two of them can be told apart. Without Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # their models take longer to make than a tray to show
    from legion_client.control.messages import Face


@dataclass(frozen=True, slots=True)
class Colors:
    """Hex colours. Every text colour has at least 4.5:1 on window, card and field, every line 3:1."""

    is_dark: bool
    window: str
    card: str
    field: str
    border: str
    line: str  # of axes and inactive controls
    text: str
    muted: str
    accent: str
    on_accent: str
    selected: str  # behind the chosen page
    faces: dict[Face, str]
    series: tuple[str, ...]  # lines of the graphs

    @property
    def error(self) -> str:
        return self.faces["warning"]


LIGHT = Colors(
    is_dark=False,
    window="#f4f5f8",
    card="#ffffff",
    field="#ffffff",
    border="#d9dde5",
    line="#7c8596",
    text="#1a1f2b",
    muted="#545d6e",
    accent="#2456c9",
    on_accent="#ffffff",
    selected="#e1e8f9",
    faces={
        "training": "#15734a",
        "syncing": "#2456c9",
        "waiting": "#8a5a00",
        "paused": "#545d6e",
        "warning": "#b8350d",
        "offline": "#5f6675",
    },
    series=("#2456c9", "#15734a", "#b8350d", "#7a3fb0", "#8a5a00", "#0b7285"),
)
DARK = Colors(
    is_dark=True,
    window="#14171d",
    card="#1c2028",
    field="#242a34",
    border="#333a47",
    line="#7f8a9c",
    text="#e8ebf1",
    muted="#a3adbd",
    accent="#7aa2ff",
    on_accent="#0d1322",
    selected="#27334f",
    faces={
        "training": "#4fcf92",
        "syncing": "#7aa2ff",
        "waiting": "#e8b84a",
        "paused": "#a3adbd",
        "warning": "#ff8f66",
        "offline": "#929cad",
    },
    series=("#7aa2ff", "#4fcf92", "#ff8f66", "#c79bff", "#e8b84a", "#5bc8dc"),
)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two hex colours, 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    red, green, blue = (_linear(int(color[place : place + 2], 16) / 255) for place in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
