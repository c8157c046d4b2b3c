"""Both themes can be read: WCAG's 4.5:1 for text and 3:1 for lines."""

import pytest

from legion_client.ui.colors import DARK, LIGHT, Colors, contrast


def test_contrast_of_known_pairs() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_can_be_read(colors: Colors) -> None:
    grounds = (colors.window, colors.card, colors.field)
    texts = {"text": colors.text, "muted": colors.muted, "accent": colors.accent, "error": colors.error} | colors.faces
    found = {(name, ground): contrast(text, ground) for name, text in texts.items() for ground in grounds}
    found["text on the chosen page", colors.selected] = contrast(colors.text, colors.selected)
    found["accent on a pressed button", colors.selected] = contrast(colors.accent, colors.selected)
    found["main button", colors.accent] = contrast(colors.on_accent, colors.accent)
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_every_line_can_be_seen(colors: Colors) -> None:
    lines = (colors.line, *colors.series, *colors.faces.values())
    assert [line for line in lines for ground in (colors.card, colors.window) if contrast(line, ground) < 3] == []
