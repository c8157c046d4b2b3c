"""Words with Qt's translations and the locale's own numbers and times."""

from datetime import datetime
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QDate, QLocale, QTime, QTranslator

CONTEXT = "legion"
TRANSLATIONS = Path(__file__).parent / "translations"  # .ts for translators, beside them .qm that lrelease made
STRETCH = 0.4  # longer than English, as German and Finnish are


class QtWords:
    """All texts have one context; a missing translation is the English text."""

    def __init__(self, locale: QLocale | None = None) -> None:
        self._locale = locale or QLocale()

    def tr(self, text: str, /, **values: object) -> str:
        translated = QCoreApplication.translate(CONTEXT, text)
        return translated.format(**values) if values else translated

    def count(self, number: int, one: str, many: str) -> str:
        text = QCoreApplication.translate(CONTEXT, many, "", number)
        if text == many and number == 1:
            text = one
        return text.format(n=self.number(number))

    def number(self, value: float, digits: int = 0) -> str:
        return self._locale.toString(float(value), "f", digits)

    def time(self, at: datetime) -> str:
        return self._locale.toString(QTime(at.hour, at.minute), QLocale.FormatType.ShortFormat)

    def date(self, at: datetime) -> str:
        return self._locale.toString(QDate(at.year, at.month, at.day), "ddd d MMM")


def translator(locale: QLocale | None = None, folder: Path = TRANSLATIONS) -> QTranslator | None:
    """Of the system's language, or one near it; None where nobody has translated that."""
    made = QTranslator()
    return made if made.load(locale or QLocale(), "legion", "_", str(folder), ".qm") else None


class PseudoTranslator(QTranslator):
    """Marks every text as translated and makes it 40 % longer: shows what is not translated and what is cut off."""

    def translate(self, context: str, text: str, disambiguation: str | None = None, n: int = -1) -> str:
        return stretched(text) if context == CONTEXT else ""

    def isEmpty(self) -> bool:  # noqa: N802
        return False


def stretched(text: str) -> str:
    """The tail can be wrapped where words could be."""
    tail = max(1, round(len(text) * STRETCH) - 2)
    return f"[{text}{' '.join(['~' * 7] * (tail // 8) + ['~' * (tail % 8)])}]" if text else text
