"""What benchmarks have in common: how they end."""

import sys
from pathlib import Path

import pytest

from legion.errors import LegionError, Unusable

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "bytes.py")])


def test_an_error_of_legion_is_a_sentence_and_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    from rows import status_of

    def main() -> int:
        raise Unusable("no network namespaces here", hint="Be root.")

    assert status_of(main) == Unusable.exit_code != LegionError.exit_code
    assert capsys.readouterr().err == "bytes.py: no network namespaces here. Be root.\n"
    assert status_of(lambda: 7) == 7


def test_other_errors_are_not_hidden() -> None:
    from rows import status_of

    def main() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        status_of(main)
