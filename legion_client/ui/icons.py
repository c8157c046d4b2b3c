"""Icons, drawn in the colour that is wanted; the masters lie in assets/icons."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

if TYPE_CHECKING:
    from legion_client.control.messages import Face
    from legion_client.ui.colors import Colors

SIZES_PX = (16, 22, 24, 32, 44, 48, 64, 128)


@lru_cache(maxsize=256)
def icon(name: str, color: str, disabled: str | None = None) -> QIcon:
    """In every size that a tray or a button may ask for, so that none is scaled."""
    found = QIcon()
    for size_px in SIZES_PX:
        found.addPixmap(pixmap(name, color, size_px))
        if disabled is not None:
            found.addPixmap(pixmap(name, disabled, size_px), QIcon.Mode.Disabled)
    return found


def pixmap(name: str, color: str, size_px: int, ratio: float = 1.0) -> QPixmap:
    """A square of `size_px` at a device pixel ratio of `ratio`."""
    drawn = QPixmap(round(size_px * ratio), round(size_px * ratio))
    drawn.fill(Qt.GlobalColor.transparent)
    painter = QPainter(drawn)
    QSvgRenderer(QByteArray(_source(name).replace("currentColor", color).encode())).render(
        painter, QRectF(0, 0, drawn.width(), drawn.height())
    )
    painter.end()
    drawn.setDevicePixelRatio(ratio)
    return drawn


@lru_cache(maxsize=64)
def _source(name: str) -> str:
    return Path(path_of(name)).read_text(encoding="utf-8")


def path_of(name: str) -> str:
    """For style sheets, which take files only; such icons have their colour in them."""
    return (Path(__file__).parent / "icons" / f"{name}.svg").as_posix()


def tray_icon(face: Face, colors: Colors) -> QIcon:
    """macOS colours its menu bar's icons by itself; there only the shape is ours."""
    if sys.platform == "darwin":
        found = QIcon(icon(f"face-{face}", "#000000"))
        found.setIsMask(True)
        return found
    return icon(f"face-{face}", colors.faces[face])


def program_icon() -> QIcon:
    return icon("legion", "#2456c9")
