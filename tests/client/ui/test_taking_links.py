"""A first window takes legion:// links once; afterwards the volunteer's word holds."""

import sys
from pathlib import Path

import pytest

from legion_client import links
from legion_client.ui.desktop import Desktop
from legion_client.ui.pages.preferences import PreferencesPage
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import MemoryDesk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="desktop entries")


@pytest.fixture
def nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_DIRS", "XDG_DATA_DIRS"):
        monkeypatch.setenv(variable, str(tmp_path / "system"))


def preferences_of(desktop: Desktop) -> PreferencesPage:
    desktop.window.open_page("preferences")
    page = desktop.window._pages["preferences"]
    assert isinstance(page, PreferencesPage)
    return page


@pytest.mark.usefixtures("nobody_elses")
def test_a_first_window_takes_links_and_preferences_give_them_back(stage: Stage) -> None:
    async def first(desktop: Desktop, desk: MemoryDesk) -> None:
        desk.tell(name="without a window")
        await until(lambda: desktop.conversation.status and desktop.conversation.status.name == "without a window")
        assert not links.is_on()
        desktop.raise_window()
        desk.tell(name="with a window")
        await until(links.is_on)
        page = preferences_of(desktop)
        await until(page._links.isChecked)
        page._links.setChecked(False)
        assert not links.is_on()
        assert page._trouble.isHidden()

    async def again(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desk.tell(name="again")
        await until(lambda: desktop.conversation.status and desktop.conversation.status.name == "again")
        assert not links.is_on()

    stage.run(first)
    stage.run(again)


@pytest.mark.usefixtures("nobody_elses")
def test_a_home_that_takes_no_entry_costs_the_links_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.raise_window()
        desk.tell(name="new")
        await until(lambda: desktop._links_tried)
        assert not desktop.memory.now.takes_links
        assert desktop.dialog is None
        page = preferences_of(desktop)
        page._links.setChecked(True)
        assert "legion:// links cannot be changed" in page._trouble.text()
        assert not page._trouble.isHidden()

    stage.run(play)
