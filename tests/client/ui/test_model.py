"""What the widgets show, without any widget."""

from datetime import datetime
from typing import get_args

import pytest

from legion_client.control.messages import DeviceNow, Face, ModeNow, Status, Why
from legion_client.ui import model
from legion_client.ui.model import Action, pause_until, view_of
from legion_client.ui.pages.run import MOST_LINES, MOST_WIDTH, shown_lines
from legion_client.ui.words import English
from tests.client.ui.memory_desk import NEW, TRAINING, WAITING

NOW = datetime(2027, 3, 1, 14, 30).timestamp()
WORDS = English()


def view(**changes: object) -> model.View:
    return view_of(WORDS, TRAINING.model_copy(update=changes), NOW)


@pytest.mark.parametrize("face", get_args(Face))
def test_every_face_has_a_word_of_its_own(face: Face) -> None:
    words = model.face_words(WORDS)
    assert view(face=face).word == words[face]
    assert len(set(words.values())) == len(get_args(Face))


def test_training_can_be_paused_and_not_resumed() -> None:
    entries = view().entries
    assert entries["pause"].visible
    assert entries["pause"].enabled
    assert not entries["resume"].visible


def test_paused_can_be_resumed_and_not_finished() -> None:
    entries = view(face="paused").entries
    assert entries["resume"].visible
    assert not entries["pause"].visible
    assert not entries["finish"].enabled


def test_waiting_for_a_rule_can_still_be_paused_for_longer() -> None:
    assert view_of(WORDS, WAITING, NOW).entries["pause"].visible


def test_who_has_not_joined_has_nothing_to_pause() -> None:
    shown = view_of(WORDS, NEW, NOW)
    assert not shown.joined
    assert not shown.entries["pause"].enabled
    assert shown.entries["join"].enabled
    assert shown.run_facts == ()


def test_before_the_first_status_there_is_only_open_and_quit() -> None:
    enabled = {name for name, entry in model.starting(WORDS).entries.items() if entry.enabled}
    assert enabled == {"open", "quit"}


def test_every_action_has_an_entry_in_every_state() -> None:
    for shown in (model.starting(WORDS), model.lost(WORDS, "gone"), view(), view_of(WORDS, NEW, NOW)):
        assert set(shown.entries) == set(get_args(Action))


def test_finishing_is_marked_and_not_offered_twice() -> None:
    finish = view(finishing=True).entries["finish"]
    assert finish.checked is True
    assert not finish.enabled


def test_graphics_are_only_offered_where_there_are_some() -> None:
    assert view().entries["gpu"].visible
    only_cpu = (DeviceNow(kind="cpu", name="a processor", memory_bytes=2**30),)
    assert not view(devices=only_cpu).entries["gpu"].visible


def test_a_switched_off_card_is_not_ticked_and_says_so() -> None:
    shown = view(modes={"gpu": ModeNow(mode="never")})
    assert shown.entries["gpu"].checked is False
    card, processor = shown.devices
    assert (card.on, processor.on) == (False, True)
    assert card.detail == "12 GB · switched off"


def test_every_device_says_what_it_does_or_what_stops_it() -> None:
    hot = Why(slug="graphics-hot", sentence="Graphics card 1 is hot.")
    in_use = Why(slug="graphics-in-use", sentence="Graphics cards wait.")
    first, processor = TRAINING.devices
    second = first.model_copy(update={"index": 1, "state": "waiting", "reasons": (hot,)})
    shown = view(devices=(first, second, processor)).devices
    assert [(row.detail, row.on) for row in shown] == [
        ("12 GB · graphics card 0 · computes now", True),
        ("12 GB · graphics card 1 · Graphics card 1 is hot.", False),
        ("8 cores · 32 GB", True),
    ]
    both = [card.model_copy(update={"state": "waiting", "reasons": (in_use,)}) for card in (first, second)]
    assert [row.detail for row in view(devices=(*both, processor)).devices[:2]] == [
        "12 GB · graphics card 0 · waits",
        "12 GB · graphics card 1 · waits",
    ]


def test_a_card_that_cannot_be_used_is_nothing_to_switch() -> None:
    lost = TRAINING.devices[0].model_copy(update={"state": "unusable"})
    assert not view(devices=(lost,)).entries["gpu"].visible
    off = TRAINING.devices[0].model_copy(update={"state": "off"})
    entry = view(devices=(off,), modes={"gpu": ModeNow(mode="never")}).entries["gpu"]
    assert (entry.visible, entry.checked) == (True, False)


def test_all_reasons_are_listed_with_their_setting_and_end() -> None:
    until = datetime(2027, 3, 2, 8, 0).timestamp()
    why = Why(slug="schedule", sentence="Waiting: outside of your hours.", setting="schedule.monday", until=until)
    first, second = view(reasons=(*WAITING.reasons[:1], why)).reasons
    assert first.sentence == "Waiting: a program covers the whole screen."
    assert second.sentence == "Waiting: outside of your hours. Until tomorrow 08:00."
    assert second.setting == "schedule.monday"


def test_an_end_that_has_passed_is_not_told() -> None:
    why = Why(slug="x", sentence="Paused by you.", until=NOW - 1)
    assert view(reasons=(why,)).reasons[0].sentence == "Paused by you."


def test_the_tooltip_says_it_in_three_lines() -> None:
    assert view().tooltip.splitlines() == [
        "Legion: Training",
        "Training in round 13 with 37 other computers.",
        "8,412 tokens/s",
    ]
    assert view(tokens_per_s=0.0, finishing=True).tooltip.endswith("Pauses when this round is finished.")


def test_a_sample_takes_no_more_room_than_there_is() -> None:
    assert shown_lines("\n\ndef f():\n    pass\n\n\tx\n") == "def f():\n    pass\n\n        x"
    assert shown_lines("x" * 2000).splitlines() == ["x" * MOST_WIDTH] * MOST_LINES
    assert shown_lines("\n".join("y" * 2000)) == "\n".join("y" * MOST_LINES)


def test_tiles() -> None:
    assert [(tile.value, tile.note) for tile in view().tiles] == [
        ("8,412", "tokens a second"),
        ("24.18 M", "tokens"),
        ("#9", "of 38 computers"),
        ("2.2 %", "of the run"),
    ]


def test_one_computer_is_no_plural_and_no_rank_is_a_dash() -> None:
    assert TRAINING.run is not None
    alone = TRAINING.run.model_copy(update={"workers": 1, "round": None, "loss": None, "steps": 0})
    ranked = view(run=alone, contribution=type(TRAINING.contribution)(rank=1, ranked=1))
    assert [tile.note for tile in ranked.tiles][2] == "of 1 computer"
    shown = view(run=alone, contribution=type(TRAINING.contribution)())
    assert [tile.note for tile in shown.tiles][2] == "not counted yet"
    assert [tile.value for tile in shown.tiles][2:] == ["-", "-"]
    assert shown.run_share is None
    assert shown.run_line == "Step 4,120 of 0"


def test_the_run_in_one_line() -> None:
    assert view().run_line == "Step 4,120 of 12,000 · round 13 · loss 3.271"
    assert view().run_share == pytest.approx(4120 / 12000)


@pytest.mark.parametrize(
    ("action", "ends"),
    [
        ("pause", None),
        ("snooze_15", NOW + 900),
        ("snooze_60", NOW + 3600),
        ("snooze_240", NOW + 14_400),
        ("snooze_tomorrow", datetime(2027, 3, 2, 8, 0).timestamp()),
    ],
)
def test_when_a_pause_ends(action: Action, ends: float | None) -> None:
    assert pause_until(action, NOW) == ends


def test_after_midnight_tomorrow_is_the_next_day() -> None:
    night = datetime(2027, 3, 1, 0, 5).timestamp()
    assert pause_until("snooze_tomorrow", night) == datetime(2027, 3, 2, 8, 0).timestamp()


def test_a_status_of_nothing_can_be_shown() -> None:
    bare = Status(version="0.1", face="offline", headline="")
    assert view_of(WORDS, bare, NOW).tiles[0].value == "0"


def test_what_nobody_knows_the_share_of_shows_its_seconds() -> None:
    opening = TRAINING.model_copy(update={"face": "syncing", "progress": "opens the data", "progress_share": None})
    assert view_of(WORDS, opening, NOW, NOW - 1).progress == "Opens the data"
    assert view_of(WORDS, opening, NOW, NOW - 17.4).progress == "Opens the data (17 s)"
    known = opening.model_copy(update={"progress_share": 0.4})
    assert view_of(WORDS, known, NOW, NOW - 17).progress == "Opens the data"
    waiting = opening.model_copy(update={"face": "waiting"})
    assert view_of(WORDS, waiting, NOW, NOW - 17).progress == "Opens the data"


def test_a_server_that_is_not_heard_is_not_called_connected() -> None:
    assert view_of(WORDS, TRAINING, NOW).server_line == f"Connected to {TRAINING.server}"
    offline = TRAINING.model_copy(update={"face": "offline"})
    assert view_of(WORDS, offline, NOW).server_line == f"Server {TRAINING.server}"


def test_a_pause_has_no_link_to_a_setting_that_the_preferences_do_not_show() -> None:
    reason = WAITING.reasons[0].model_copy(update={"setting": "modes.paused"})
    (shown,) = view_of(WORDS, WAITING.model_copy(update={"reasons": (reason,)}), NOW).reasons
    assert shown.setting is None
