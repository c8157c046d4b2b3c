"""Brings the .ts files up to date with the program, by Qt's lupdate: what is translated stays, what is new is added.

python -m legion_client.ui.translations.update        # all that are there
python -m legion_client.ui.translations.update de     # begins a German one
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from legion_client.ui.language import CONTEXT, TRANSLATIONS
from legion_client.ui.translations.texts import Text, every_text

LUPDATE = Path(sys.executable).with_name("pyside6-lupdate")


def main() -> None:
    new = [TRANSLATIONS / f"legion_{language}.ts" for language in sys.argv[1:]]
    for file in sorted({*TRANSLATIONS.glob("*.ts"), *new}):
        update(file)


def update(file: Path) -> None:
    """lupdate knows Qt's own functions only, so it is given every text as a call of one."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.py"
        source.write_text("".join(map(as_call, every_text())), encoding="utf-8")
        command = [str(LUPDATE), "-silent", "-locations", "none", "-no-obsolete", str(source), "-ts", str(file)]
        subprocess.run(command, check=True)


def as_call(text: Text) -> str:
    number = ', "", 1' if text.plural else ""
    return f"QCoreApplication.translate({CONTEXT!r}, {text.source!r}{number})\n"


if __name__ == "__main__":
    main()
