"""Translations: the file for translators is up to date; a language shows everywhere, also in what the agent says."""

import string
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QCoreApplication, QLocale
from PySide6.QtWidgets import QApplication, QTableWidget

from legion.errors import WorkerRevoked
from legion_client.agent.face import look
from legion_client.agent.journal import Journal
from legion_client.agent.life import Phase, State
from legion_client.agent.telling import Teller
from legion_client.control.messages import Said
from legion_client.machine.policy import Pause
from legion_client.machine.reasons import RULES, Active, Reason, why
from legion_client.ui.desktop import Desktop
from legion_client.ui.language import CONTEXT, TRANSLATIONS, PseudoTranslator, QtWords, translator
from legion_client.ui.model import view_of
from legion_client.ui.translations.texts import Text, every_text
from legion_client.ui.translations.update import update
from legion_client.ui.window import PAGES
from legion_client.ui.wizard import Wizard
from legion_client.ui.words import English, spoken
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import TRAINING, WAITING, MemoryDesk


def figures_of(reason: Reason) -> dict[str, str | int]:
    """Something for every value that its sentences have."""
    rule = RULES[reason]
    names = [name for text in (rule.text, rule.over) for _, name, _, _ in string.Formatter().parse(text) if name]
    return dict.fromkeys(names, 7)


def sources(file: Path) -> set[Text]:
    [context] = ElementTree.parse(file).getroot().iter("context")
    assert context.findtext("name") == CONTEXT
    return {
        Text(message.findtext("source") or "", message.get("numerus") == "yes") for message in context.iter("message")
    }


@pytest.mark.parametrize("file", sorted(TRANSLATIONS.glob("*.ts")), ids=lambda file: file.name)
def test_the_files_for_translators_are_up_to_date(file: Path, tmp_path: Path) -> None:
    """If not: python -m legion_client.ui.translations.update"""
    again = tmp_path / file.name
    again.write_bytes(file.read_bytes())
    update(again)
    assert sources(file) == sources(again) == set(every_text())
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("page", PAGES)
def test_whatever_a_page_shows_can_be_translated(stage: Stage, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    known = {text.source for text in every_text()}
    asked: set[str] = set()
    tr = QtWords.tr

    def recording(self: QtWords, text: str, /, **values: object) -> str:
        asked.add(text)
        return tr(self, text, **values)

    monkeypatch.setattr(QtWords, "tr", recording)

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop.window.open_page(page)
        desk.tell(
            **dict(WAITING) | {"headline_said": look(None, (why(Active(Reason.GAME)),), rests=True, away=None).said}
        )
        await until(lambda: desktop.window.page == page)
        desktop.set_up(None)
        assert isinstance(desktop.dialog, Wizard)

    stage.run(play)
    assert {text for text in asked if any(map(str.isalpha, text))} <= known


@pytest.fixture
def pseudo(qapp: QApplication) -> Iterator[PseudoTranslator]:
    made = PseudoTranslator()
    assert QCoreApplication.installTranslator(made)
    yield made
    QCoreApplication.removeTranslator(made)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("over", [False, True])
def test_every_reason_is_told_in_the_windows_language(pseudo: PseudoTranslator, reason: Reason, over: bool) -> None:
    told = why(Active(reason, figures=figures_of(reason), over=over))
    assert spoken(English(), told.said, "") == told.sentence
    status = TRAINING.model_copy(update={"reasons": (told,)})
    [shown] = view_of(QtWords(QLocale(QLocale.Language.English)), status, time.time()).reasons
    assert shown.sentence.startswith("[")
    assert shown.sentence.endswith("]")


@pytest.mark.parametrize("phase", Phase)
def test_every_headline_is_told_in_the_windows_language(pseudo: PseudoTranslator, phase: Phase) -> None:
    seen = look(State(phase=phase), (), rests=False, away=None, run=TRAINING.run)
    status = TRAINING.model_copy(update={"headline": seen.headline, "headline_said": seen.said})
    headline = view_of(QtWords(QLocale(QLocale.Language.English)), status, time.time()).headline
    assert headline.startswith("[")
    away = look(None, (), rests=False, away=WorkerRevoked("removed by the operator"))
    assert away.headline == f"Removed by the operator. {WorkerRevoked.hint}"
    assert Text(away.said[1].text) in every_text()


def test_activity_speaks_the_windows_language(stage: Stage, pseudo: PseudoTranslator, tmp_path: Path) -> None:
    """All that the teller tells, from its own mouth."""
    journal = Journal(tmp_path / "happenings.jsonl")
    teller = Teller(journal)
    pause = Pause((Active(Reason.GAME),))
    teller.decided(None, pause, None)
    teller.heard(WorkerRevoked("gone"))
    teller.heard(None)
    teller.moved(State(), State(death=WorkerRevoked("SIGKILL"), crashes=(1.0,)))
    teller.moved(State(phase=Phase.PREPARING), State(phase=Phase.READY))
    kept = Journal(tmp_path / "happenings.jsonl").after(0, 100)

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.kept_happenings = list(kept)
        desktop.raise_window()
        desktop.window.open_page("activity")
        [table] = desktop.window._pages["activity"].findChildren(QTableWidget)
        await until(lambda: table.rowCount() == len(kept) == 5)
        told: list[Any] = [table.item(line, 1) for line in range(table.rowCount())]
        assert [one.text() for one in told if not one.text().startswith("[")] == []

    stage.run(play)


def test_a_language_that_somebody_has_translated(qapp: QApplication, tmp_path: Path) -> None:
    """From the file for translators by Qt's own lrelease to the words of the window."""
    german = {"Training goes on after {minutes} min.": "Weiter nach {minutes} min.", "Home": "Start"}
    forms = {"of {n} computers": ("von {n} Rechner", "von {n} Rechnern")}
    tree = ElementTree.parse(TRANSLATIONS / "legion_en.ts")
    tree.getroot().set("language", "de_DE")
    for message in tree.getroot().iter("message"):
        source, translation = message.findtext("source") or "", message.find("translation")
        assert translation is not None
        if source in german:
            translation.attrib.pop("type")
            translation.text = german[source]
        if source in forms:
            translation.attrib.pop("type")
            for form, text in zip(list(translation), forms[source], strict=True):
                form.text = text
    tree.write(tmp_path / "legion_de.ts", encoding="utf-8", xml_declaration=True)
    lrelease = Path(sys.executable).with_name("pyside6-lrelease")
    subprocess.run([lrelease, "-silent", tmp_path / "legion_de.ts", "-qm", tmp_path / "legion_de.qm"], check=True)
    locale = QLocale(QLocale.Language.German, QLocale.Country.Austria)
    made = translator(locale, tmp_path)
    assert made is not None
    assert translator(QLocale(QLocale.Language.Finnish), tmp_path) is None
    QCoreApplication.installTranslator(made)
    try:
        words = QtWords(locale)
        assert words.tr("Home") == "Start"
        assert words.count(1, "of {n} computer", "of {n} computers") == "von 1 Rechner"
        assert words.count(2000, "of {n} computer", "of {n} computers").endswith("000 Rechnern")
        parts = (Said(text="Training goes on after {minutes} min.", values={"minutes": 5}), Said(text="A game runs."))
        assert spoken(words, parts, "") == "Weiter nach 5 min. A game runs."
    finally:
        QCoreApplication.removeTranslator(made)
