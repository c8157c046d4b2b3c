"""The pieces that pages are put together from: cards, figures, texts. Distances are parts of the font's height."""

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QFont
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from legion_client.ui.model import Tile, View
from legion_client.ui.theme import Theme

TITLE, LARGE, SMALL = 1.35, 1.7, 0.92  # of the font's size


def font_of(widget: QWidget, scale: float, *, bold: bool = False) -> QFont:
    font = QFont(widget.font())
    font.setPointSizeF(font.pointSizeF() * scale)
    if bold:
        font.setWeight(QFont.Weight.DemiBold)
    return font


def label(text: str = "", *, role: str = "", scale: float = 1.0, bold: bool = False, wrap: bool = False) -> QLabel:
    """`role` is the name that the style sheet knows: muted, error. Text is never read as HTML."""
    made = QLabel(text)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setObjectName(role)
    made.setFont(font_of(made, scale, bold=bold))
    made.setWordWrap(wrap)
    if wrap:
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        made.setSizePolicy(policy)
    return made


def button(text: str, *, role: str = "") -> QPushButton:
    made = QPushButton(text)
    made.setObjectName(role)
    return made


def card(theme: Theme, layout: QLayout) -> QFrame:
    frame = QFrame()
    frame.setObjectName("card")
    frame.setLayout(layout)
    margin = theme.unit * 3 // 4
    layout.setContentsMargins(margin, margin, margin, margin)
    return frame


def column(spacing: int) -> QVBoxLayout:
    layout = QVBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    return layout


def row(spacing: int) -> QHBoxLayout:
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    return layout


def clear(layout: QVBoxLayout) -> None:
    """Everything in it, with what lies in layouts in it."""
    while (item := layout.takeAt(0)) is not None:
        inner = item.layout()
        if inner is not None:
            while (part := inner.takeAt(0)) is not None:
                if (widget := part.widget()) is not None:
                    widget.hide()
                    widget.deleteLater()
            inner.deleteLater()
        elif (widget := item.widget()) is not None:
            widget.hide()
            widget.deleteLater()


class Page(QWidget):
    """One page of the window. `show_view` may be called while it is hidden; then it should only remember."""

    def show_view(self, view: View) -> None:
        """Called with every change of the status."""

    def show_place(self, place: str) -> None:
        """Scroll to a part of the page, as a link names it."""


class Scrolled(QScrollArea):
    """A page's content, that scrolls when the window is lower than it."""

    def __init__(self, content: QWidget, name: str) -> None:
        super().__init__()
        content.setObjectName("page")
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setAccessibleName(name)
        self.viewport().setAutoFillBackground(False)
        content.setAutoFillBackground(False)


class Figure(QWidget):
    """A caption, a large value and a note below it."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        layout = column(theme.unit // 8)
        self._caption = label(role="caption", scale=SMALL)
        self._value = label(scale=LARGE, bold=True)
        self._note = label(role="muted", scale=SMALL)
        for part in (self._caption, self._value, self._note):
            layout.addWidget(part)
        self.setLayout(layout)

    def show_tile(self, tile: Tile) -> None:
        self._caption.setText(tile.caption)
        self._value.setText(tile.value)
        self._note.setText(tile.note or " ")
        self.setAccessibleName(f"{tile.caption}: {tile.value} {tile.note}".strip())


class Figures(QWidget):
    """Tiles side by side, in two rows where one is too narrow for their texts."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._figures: list[QFrame] = []
        self._inner: list[Figure] = []
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(theme.unit // 2)
        self.setLayout(self._grid)

    def show_tiles(self, tiles: Sequence[Tile]) -> None:
        while len(self._inner) < len(tiles):
            figure = Figure(self._theme)
            layout = row(0)
            layout.addWidget(figure)
            frame = card(self._theme, layout)
            place = len(self._inner)
            self._inner.append(figure)
            self._figures.append(frame)
            self._grid.addWidget(frame, 0, place)
            self._grid.setColumnStretch(place, 1)
        for figure, frame, tile in zip(self._inner, self._figures, tiles, strict=False):
            figure.show_tile(tile)
            frame.show()
        for frame in self._figures[len(tiles) :]:
            frame.hide()


def empty_note(text: str) -> QLabel:
    """What stands where there is nothing to show yet."""
    made = label(text, role="muted", wrap=True)
    made.setAlignment(Qt.AlignmentFlag.AlignCenter)
    return made
