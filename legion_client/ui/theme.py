"""Both themes as Qt palettes and one style sheet, so that they look the same wherever the app runs.

Sizes are multiples of the font's height: text may be twice as large and everything follows.
"""

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFontMetricsF, QPalette
from PySide6.QtWidgets import QApplication

from legion_client.ui.colors import DARK, LIGHT, Colors
from legion_client.ui.icons import path_of
from legion_client.ui.memory import Choice


class Theme(QObject):
    """The colours that hold now; `changed` when the choice or the system's scheme changes."""

    changed = Signal()

    def __init__(self, application: QApplication, choice: Choice = "auto") -> None:
        super().__init__(application)
        self._application = application
        self.choice: Choice = choice
        self.colors: Colors = LIGHT
        application.setStyle("Fusion")
        application.styleHints().colorSchemeChanged.connect(lambda _: self._apply())
        self._apply()

    def choose(self, choice: Choice) -> None:
        self.choice = choice
        self._apply()

    @property
    def unit(self) -> int:
        """The height of a line of text in pixels."""
        return round(QFontMetricsF(self._application.font()).height())

    def _apply(self) -> None:
        scheme = self._application.styleHints().colorScheme()
        dark = self.choice == "dark" or (self.choice == "auto" and scheme == Qt.ColorScheme.Dark)
        self.colors = DARK if dark else LIGHT
        self._application.setPalette(palette_of(self.colors))
        self._application.setStyleSheet(style_sheet(self.colors, self.unit))
        self.changed.emit()


def palette_of(colors: Colors) -> QPalette:
    role = QPalette.ColorRole
    palette = QPalette()
    for which, color in {
        role.Window: colors.window,
        role.WindowText: colors.text,
        role.Base: colors.field,
        role.AlternateBase: colors.window,
        role.Text: colors.text,
        role.PlaceholderText: colors.muted,
        role.Button: colors.card,
        role.ButtonText: colors.text,
        role.ToolTipBase: colors.card,
        role.ToolTipText: colors.text,
        role.BrightText: colors.error,
        role.Highlight: colors.accent,
        role.HighlightedText: colors.on_accent,
        role.Link: colors.accent,
        role.LinkVisited: colors.accent,
        role.Accent: colors.accent,
        role.Light: colors.card,
        role.Midlight: colors.border,
        role.Mid: colors.border,
        role.Dark: colors.line,
        role.Shadow: colors.border,
    }.items():
        palette.setColor(which, QColor(color))
    for which in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, which, QColor(colors.line))
    return palette


def style_sheet(colors: Colors, unit: int) -> str:
    """`unit`: the height of a line of text in pixels."""
    return "".join(part(colors, unit) for part in (_surfaces, _buttons, _fields, _bars))


def _surfaces(colors: Colors, unit: int) -> str:
    """Windows, cards, texts and the list of pages."""
    gap, small = unit // 2, max(2, unit // 4)
    return f"""
    QMainWindow, QDialog {{ background: {colors.window}; }}
    QFrame#card {{ background: {colors.card}; border: 1px solid {colors.border};
        border-radius: {max(4, unit // 2)}px; }}
    QLabel#muted, QLabel#caption {{ color: {colors.muted}; }}
    QLabel#error {{ color: {colors.error}; }}
    QLabel#link {{ color: {colors.accent}; }}
    QScrollArea, QScrollArea > QWidget > QWidget#page {{ background: transparent; border: none; }}
    QListWidget#pages {{ background: transparent; border: none; outline: none; padding: {gap}px {small}px; }}
    QListWidget#pages::item {{ padding: {small}px {gap}px; margin: 1px 0; border-radius: {small + 2}px;
        color: {colors.text}; }}
    QListWidget#pages::item:hover {{ background: {colors.border}; }}
    QListWidget#pages::item:selected {{ background: {colors.selected}; color: {colors.text}; }}
    QListWidget#pages::item:selected:focus {{ border: 1px solid {colors.accent}; }}
    """


def _buttons(colors: Colors, unit: int) -> str:
    """Every kind of button."""
    gap, small = unit // 2, max(2, unit // 4)
    return f"""
    QPushButton, QPushButton#menu {{ background: {colors.card}; color: {colors.text}; border: 1px solid {colors.line};
        border-radius: {small + 2}px; padding: {small}px {gap + small}px; }}
    QPushButton:hover, QPushButton#menu:hover {{ background: {colors.selected}; }}
    QPushButton:pressed, QPushButton#menu:pressed, QPushButton:checked {{ background: {colors.selected};
        border-color: {colors.accent}; }}
    QPushButton:focus, QPushButton#menu:focus {{ border: 2px solid {colors.accent}; padding: {small - 1}px
        {gap + small - 1}px; }}
    QPushButton:disabled, QPushButton#menu:disabled {{ color: {colors.muted}; border-color: {colors.border}; }}
    QPushButton#primary {{ background: {colors.accent}; color: {colors.on_accent}; border: 1px solid {colors.accent};
        font-weight: 600; }}
    QPushButton#primary:focus {{ border: 2px solid {colors.text}; }}
    QPushButton#primary:disabled {{ background: {colors.border}; color: {colors.muted};
        border-color: {colors.border}; }}
    QPushButton#flat, QPushButton#link {{ background: transparent; border: 1px solid transparent;
        color: {colors.accent}; }}
    QPushButton#link {{ padding: 0; text-align: left; text-decoration: underline; }}
    QPushButton#flat:hover {{ background: {colors.selected}; }}
    QPushButton#flat:focus, QPushButton#link:focus {{ border: 1px solid {colors.accent}; }}
    """


def _fields(colors: Colors, unit: int) -> str:
    """Where something is typed or ticked."""
    gap, small, theme = unit // 2, max(2, unit // 4), "dark" if colors.is_dark else "light"
    return f"""
    QLineEdit {{ placeholder-text-color: {colors.muted}; }}
    QLineEdit, QPlainTextEdit {{ background: {colors.field}; color: {colors.text};
        border: 1px solid {colors.line}; border-radius: {small + 1}px; padding: {small - 1}px {gap}px; }}
    QListWidget#field {{ background: {colors.field}; color: {colors.text}; border: 1px solid {colors.line};
        border-radius: {small + 1}px; padding: {small}px; outline: none; }}
    QListWidget#field:focus {{ border: 2px solid {colors.accent}; padding: {small - 1}px; }}
    QListWidget#field::item {{ padding: {small // 2}px {small}px; border-radius: {small}px; }}
    QListWidget#field::item:selected {{ background: {colors.selected}; color: {colors.text}; }}
    QLineEdit:focus, QPlainTextEdit:focus {{ border: 2px solid {colors.accent};
        padding: {small - 2}px {gap - 1}px; }}
    QLineEdit:disabled {{ color: {colors.muted}; border-color: {colors.border}; }}
    QDoubleSpinBox, QComboBox {{ background: {colors.field}; color: {colors.text}; border: 1px solid {colors.line};
        border-radius: {small + 1}px; padding: {small - 1}px {small}px {small - 1}px {gap}px; }}
    QDoubleSpinBox {{ padding-left: 0; }}
    QDoubleSpinBox:focus, QComboBox:focus {{ border: 2px solid {colors.accent};
        padding: {small - 2}px {small - 1}px {small - 2}px {gap - 1}px; }}
    QDoubleSpinBox:disabled, QComboBox:disabled {{ color: {colors.muted}; border-color: {colors.border}; }}
    QDoubleSpinBox::up-button, QDoubleSpinBox::down-button, QComboBox::drop-down {{ background: transparent;
        border: none; width: {unit}px; }}
    QDoubleSpinBox::up-arrow {{ image: url("{path_of(f"up-{theme}")}"); width: {gap}px; height: {gap}px; }}
    QDoubleSpinBox::down-arrow, QComboBox::down-arrow {{ image: url("{path_of(f"down-{theme}")}"); width: {gap}px;
        height: {gap}px; }}
    QComboBox QAbstractItemView {{ background: {colors.field}; color: {colors.text}; border: 1px solid {colors.line};
        selection-background-color: {colors.selected}; selection-color: {colors.text}; }}
    QDoubleSpinBox > QLineEdit, QDoubleSpinBox > QLineEdit:focus, QComboBox > QLineEdit,
    QComboBox > QLineEdit:focus {{ border: none; background: transparent; padding: 0; }}
    QCheckBox, QRadioButton {{ spacing: {gap}px; }}
    QRadioButton::indicator {{ width: {unit - 4}px; height: {unit - 4}px; border: 1px solid {colors.line};
        border-radius: {unit // 2 - 1}px; background: {colors.field}; }}
    QRadioButton::indicator:checked {{ border: {small + 1}px solid {colors.accent};
        width: {unit - 2 * small - 4}px; height: {unit - 2 * small - 4}px; background: {colors.on_accent}; }}
    QRadioButton::indicator:focus {{ border-color: {colors.accent}; }}
    QCheckBox::indicator {{ width: {unit - 2}px; height: {unit - 2}px; border: 1px solid {colors.line};
        border-radius: {small}px; background: {colors.field}; }}
    QCheckBox::indicator:focus {{ border: 2px solid {colors.accent}; }}
    QCheckBox::indicator:checked {{ background: {colors.accent}; border-color: {colors.accent};
        image: url("{path_of(f"checked-{theme}")}"); }}
    QCheckBox::indicator:checked:focus {{ border: 2px solid {colors.text}; }}
    QCheckBox::indicator:disabled {{ border-color: {colors.border}; }}
    """


def _bars(colors: Colors, unit: int) -> str:
    """Progress, tables, scroll bars and menus."""
    gap, small = unit // 2, max(2, unit // 4)
    return f"""
    QProgressBar {{ background: {colors.border}; border: none; border-radius: {small // 2}px;
        min-height: {small}px; max-height: {small}px; }}
    QProgressBar::chunk {{ background: {colors.accent}; border-radius: {small // 2}px; }}
    QTableWidget, QTableView {{ background: {colors.card}; color: {colors.text}; border: none;
        gridline-color: {colors.border}; selection-background-color: {colors.selected};
        selection-color: {colors.text}; }}
    QTableWidget#lines::item {{ padding: 0 {gap}px 0 {small}px; }}
    QHeaderView::section {{ background: {colors.card}; color: {colors.muted}; border: none;
        border-bottom: 1px solid {colors.border}; padding: {small}px {gap}px; }}
    QTableCornerButton::section {{ background: {colors.card}; border: none; }}
    QScrollBar:vertical {{ background: transparent; width: {gap}px; margin: 1px; }}
    QScrollBar:horizontal {{ background: transparent; height: {gap}px; margin: 1px; }}
    QScrollBar::handle {{ background: {colors.line}; border-radius: {gap // 2 - 2}px; min-height: {unit}px;
        min-width: {unit}px; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
    QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
    QGroupBox {{ border: none; }}
    QMenuBar {{ background: {colors.window}; color: {colors.text}; }}
    QMenuBar::item {{ padding: {small}px {gap}px; background: transparent; border-radius: {small}px; }}
    QMenuBar::item:selected {{ background: {colors.selected}; }}
    QMenu {{ background: {colors.card}; color: {colors.text}; border: 1px solid {colors.border}; padding: {small}px; }}
    QMenu::item {{ padding: {small}px {unit + gap}px; border-radius: {small}px; }}
    QMenu::item:selected {{ background: {colors.selected}; color: {colors.text}; }}
    QMenu::item:disabled {{ color: {colors.muted}; }}
    QMenu::separator {{ height: 1px; background: {colors.border}; margin: {small}px {gap}px; }}
    QToolTip {{ background: {colors.card}; color: {colors.text}; border: 1px solid {colors.border};
        padding: {small}px; }}
    """
