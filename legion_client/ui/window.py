"""The window: pages at the left, one of them open, a menu bar with everything, and a line for what went wrong."""

import importlib
from functools import partial

from PySide6.QtCore import QEvent, QSize, Qt, Signal
from PySide6.QtGui import QActionGroup, QCloseEvent, QKeySequence, QPaintEvent, QShowEvent
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QMainWindow,
    QMenu,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from legion.errors import LegionError
from legion_client.ui.icons import icon
from legion_client.ui.memory import Choice
from legion_client.ui.model import View
from legion_client.ui.parts import Page, button, label, row
from legion_client.ui.tools import Tools
from legion_client.ui.words import Words

# Imported when a page is first opened: the graphs alone cost half a second and 30 MB.
PAGES = {
    "home": "legion_client.ui.pages.home:HomePage",
    "run": "legion_client.ui.pages.run:RunPage",
    "activity": "legion_client.ui.pages.activity:ActivityPage",
    "graphs": "legion_client.ui.pages.graphs:GraphsPage",
    "account": "legion_client.ui.pages.account:AccountPage",
    "preferences": "legion_client.ui.pages.preferences:PreferencesPage",
    "logs": "legion_client.ui.pages.logs:LogsPage",
}


def page_titles(words: Words) -> dict[str, str]:
    return {
        "home": words.tr("Home"),
        "run": words.tr("Run"),
        "activity": words.tr("Activity"),
        "graphs": words.tr("Graphs"),
        "account": words.tr("Account"),
        "preferences": words.tr("Preferences"),
        "logs": words.tr("Logs"),
    }


class Window(QMainWindow):
    """`closing` is asked when the volunteer closes the window: the app decides what that means."""

    closed = Signal()
    drawn = Signal()
    wizard_wanted = Signal()

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self._tools = tools
        self._words = tools.words
        self._view: View | None = None
        self._pages: dict[str, Page] = {}
        self.setWindowTitle("Legion")
        self._stack = QStackedWidget()
        self._list = self._make_list()
        self._notice = Notice(tools)
        self._make_menu_bar()
        self.setCentralWidget(self._make_body())
        self._resize_at_first()
        tools.conversation.refused.connect(self._notice.show_error)
        tools.theme.changed.connect(self._draw_icons)
        tools.actions.opened.connect(lambda page: self.open_page(page) if page else None)
        self.open_page(tools.memory.now.page if tools.memory.now.page in PAGES else "home")

    def show_view(self, view: View) -> None:
        """Only the page that is seen is drawn; the others when they are opened."""
        self._view = view
        if self.isVisible() and (page := self._pages.get(self.page)) is not None:
            page.show_view(view)

    def tell(self, text: str) -> None:
        """Above the page, until it is dismissed."""
        self._notice.show_text(text)

    @property
    def page(self) -> str:
        """The open one's name."""
        return list(PAGES)[max(0, self._list.currentRow())]

    def open_page(self, name: str) -> None:
        """`name` may go on with ":" and what the page should show, as in "preferences:gpu.use"."""
        name, _, place = name.partition(":")
        page = self._pages.get(name) or self._make_page(name)
        self._stack.setCurrentWidget(page)
        self._list.setCurrentRow(list(PAGES).index(name))
        if self._view is not None:
            page.show_view(self._view)
        if place:
            page.show_place(place)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() == QEvent.Type.WindowStateChange and self._view is not None:
            self.show_view(self._view)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        if self._view is not None:
            self.show_view(self._view)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        super().paintEvent(event)
        self.drawn.emit()

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        self._tools.memory.keep(width=self.width(), height=self.height(), page=self.page)
        event.accept()
        self.closed.emit()

    def _make_page(self, name: str) -> Page:
        module, _, kind = PAGES[name].partition(":")
        page: Page = getattr(importlib.import_module(module), kind)(self._tools)
        self._pages[name] = page
        self._stack.addWidget(page)
        return page

    def _make_list(self) -> QListWidget:
        pages = QListWidget()
        pages.setObjectName("pages")
        pages.setAccessibleName(self._words.tr("Pages"))
        unit = self._tools.theme.unit
        pages.setIconSize(QSize(unit, unit))
        for title in page_titles(self._words).values():
            pages.addItem(QListWidgetItem(title))
        pages.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        pages.setFixedWidth(pages.sizeHintForColumn(0) + unit * 3)
        pages.currentRowChanged.connect(lambda row: self.open_page(list(PAGES)[row]) if row >= 0 else None)
        return pages

    def _make_body(self) -> QWidget:
        body = QWidget()
        right = QVBoxLayout()
        right.setContentsMargins(0, 0, 0, 0)
        right.setSpacing(0)
        right.addWidget(self._notice)
        right.addWidget(self._stack, 1)
        layout = QHBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._list)
        layout.addLayout(right, 1)
        body.setLayout(layout)
        self._draw_icons()
        return body

    def _make_menu_bar(self) -> None:
        words, actions, bar = self._words, self._tools.actions, self.menuBar()
        program = bar.addMenu(words.tr("&Legion"))
        program.addAction(actions.of["join"])
        program.addAction(words.tr("Set &up again…")).triggered.connect(self.wizard_wanted)
        program.addAction(actions.of["preferences"])
        program.addSeparator()
        close = program.addAction(words.tr("&Close the window"))
        close.setShortcuts([QKeySequence("Ctrl+W"), QKeySequence("Esc")])
        close.triggered.connect(self.close)
        program.addAction(actions.of["quit"])
        training = bar.addMenu(words.tr("&Training"))
        training.addAction(actions.of["pause"])
        training.addAction(actions.of["resume"])
        actions.snooze_menu(training)
        training.addAction(actions.of["finish"])
        training.addAction(actions.of["gpu"])
        self._fill_view_menu(bar.addMenu(words.tr("&View")))

    def _fill_view_menu(self, menu: QMenu) -> None:
        for number, (name, title) in enumerate(page_titles(self._words).items(), start=1):
            action = menu.addAction(f"&{number} {title}")
            action.setShortcut(QKeySequence(f"Ctrl+{number}"))
            action.triggered.connect(partial(self.open_page, name))
        menu.addSeparator()
        themes = menu.addMenu(self._words.tr("&Theme"))
        group = QActionGroup(self)
        choices: dict[Choice, str] = {
            "auto": self._words.tr("As the &system"),
            "light": self._words.tr("&Light"),
            "dark": self._words.tr("&Dark"),
        }
        for choice, text in choices.items():
            action = themes.addAction(text)
            action.setCheckable(True)
            action.setChecked(self._tools.theme.choice == choice)
            action.triggered.connect(partial(self._choose_theme, choice))
            group.addAction(action)

    def _choose_theme(self, choice: Choice) -> None:
        self._tools.memory.keep(theme=choice)
        self._tools.theme.choose(choice)

    def _draw_icons(self) -> None:
        colors = self._tools.theme.colors
        for number, name in enumerate(PAGES):
            self._list.item(number).setIcon(icon(name, colors.text))

    def _resize_at_first(self) -> None:
        """In units of the font, but never larger than the screen."""
        unit, kept = self._tools.theme.unit, self._tools.memory.now
        wanted = QSize(kept.width, kept.height) if kept.width and kept.height else QSize(unit * 52, unit * 34)
        self.setMinimumSize(unit * 30, unit * 20)
        self.resize(wanted.boundedTo(self.screen().availableSize()))


class Notice(QFrame):
    """What could not be done or must be known, above the page until it is dismissed; never a dialog in the way."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self.setObjectName("card")
        unit = tools.theme.unit
        self._text = label(role="error", wrap=True)
        dismiss = button(tools.words.tr("Dismiss"), role="flat")
        dismiss.clicked.connect(self.hide)
        layout = row(unit // 2)
        layout.setContentsMargins(unit, unit // 4, unit // 2, unit // 4)
        layout.addWidget(self._text, 1)
        layout.addWidget(dismiss)
        self.setLayout(layout)
        self.hide()

    def show_error(self, error: LegionError) -> None:
        self._say(f"{error} {error.hint}".strip(), "error")

    def show_text(self, text: str) -> None:
        self._say(text, "")

    def _say(self, text: str, role: str) -> None:
        self._text.setText(text)
        self._text.setObjectName(role)
        self._text.style().polish(self._text)
        self.show()
