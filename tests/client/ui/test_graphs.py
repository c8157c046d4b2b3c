"""What the graphs' axes say, and where they begin."""

import time
from datetime import datetime

import pytest

from legion_client.control.messages import Sample
from legion_client.ui.desktop import Desktop
from legion_client.ui.pages.graphs import HOUR_S, GraphsPage, shown_since
from legion_client.ui.plots import TimeAxis
from legion_client.ui.words import English
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import MemoryDesk, with_history

NOW = 1_800_000_000.0


@pytest.mark.parametrize(("oldest_s", "shown_s"), [(3600, 3600), (1800, 1800), (600, 600), (20, 600)])
def test_the_axis_begins_with_the_first_sample_but_never_shows_less_than_ten_minutes(
    oldest_s: float, shown_s: float
) -> None:
    samples = [Sample(at=NOW - oldest_s), Sample(at=NOW)]
    assert NOW - shown_since(NOW - HOUR_S, HOUR_S, samples) == pytest.approx(shown_s)


def test_without_samples_the_axis_is_the_whole_range() -> None:
    assert shown_since(NOW - HOUR_S, HOUR_S, []) == NOW - HOUR_S


@pytest.mark.parametrize("range_s", [600, HOUR_S])
def test_the_axis_writes_times_as_the_words_do(stage: Stage, range_s: float) -> None:
    class Twelve(English):
        def time(self, at: datetime) -> str:
            return f"{at:%I:%M %p}"

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desktop.window.open_page("graphs")
        page = desktop.window._pages["graphs"]
        assert isinstance(page, GraphsPage)
        await until(lambda: all(plot._series for plot in page._plots))
        page.grab()
        axis = TimeAxis(Twelve())
        axis.fontMetrics = desktop.window.fontMetrics()
        ticks = axis.tickValues(NOW - range_s, NOW, 180)
        texts = [text for spacing, values in ticks for text in axis.tickStrings(values, 1.0, spacing)]
        assert any(text.endswith(("AM", "PM")) for text in texts)
        assert len(texts) <= 4  # of 60 pixels each

    stage.run(play, with_history(time.time()))
