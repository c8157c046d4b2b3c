"""Settings by their names: defaults, descriptions, what people type, presets."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import NotFound, Unusable
from legion_client.settings import (
    PRESETS,
    Preset,
    Settings,
    change,
    describe,
    differences,
    effect,
    override,
    parse,
    preset_of,
    preset_values,
    problems,
    threads,
    values,
    with_preset,
)


def test_every_setting_is_described() -> None:
    found = describe()
    assert set(found) == set(values(Settings()))
    for name, one in found.items():
        assert one.name == name
        assert one.description.endswith(".")
        assert one.kind != "choice" or len(one.choices) > 1
        assert one.kind != "number" or (one.least is not None and one.most is not None), name
        assert one.kind != "list" or one.items is not None, name
    assert found["processor.cores_in_use_percent"].unit == "%"
    assert (found["graphics.excluded"].items, found["modes.cpu_until"].kind) == ("number", "time")
    assert (found["listen_port"].section, found["modes.cpu"].section) == ("", "modes")


def test_described_defaults_are_what_holds_without_a_file() -> None:
    held = values(Settings(name="x"))
    for name, one in describe().items():
        assert name == "name" or held[name] == one.default
        assert one.shown_default in ("", json.dumps(one.default, ensure_ascii=False))


def test_settings_are_found_by_words() -> None:
    found = [name for name, one in describe().items() if one.matches("battery")]
    assert found == ["power.pause_on_battery", "power.minimum_charge_percent"]
    found = [name for name, one in describe().items() if one.matches("Memory IN use")]
    assert found == ["memory.in_use_percent"]
    assert describe()["graphics.yield_memory"].matches("card memory")
    assert describe()["disk.most_gb"].matches("")
    assert not describe()["disk.most_gb"].matches("battery")


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("idle.only", "yes", True),
        ("idle.only", "Off", False),
        ("idle.only", "true", True),
        ("listen_port", " 5000 ", 5000),
        ("listen_port", "null", None),
        ("name", "", None),
        ("name", "42", "42"),
        ("disk.most_gb", "12.5", 12.5),
        ("modes.cpu", "never", "never"),
        ("modes.cpu_until", "2026-11-23 08:00", "2026-11-23 08:00"),
        ("programs.exclusive", "blender, obs", ["blender", "obs"]),
        ("programs.exclusive", '["a, b"]', ["a, b"]),
        ("programs.exclusive", "[]", []),
        ("graphics.excluded", "0,1", [0, 1]),
        ("schedule.monday", "22:00-07:00", ["22:00-07:00"]),
    ],
)
def test_what_people_type(name: str, typed: str, value: Any) -> None:
    assert parse(name, typed) == value


def test_names_that_do_not_exist() -> None:
    with pytest.raises(NotFound, match=r"no setting graphics.onyl$"):
        parse("graphics.onyl", "1")
    with pytest.raises(NotFound, match=r"did you mean idle.only\?"):
        parse("only", "1")
    with pytest.raises(Unusable, match="listen_port: 'much' is not a number"):
        parse("listen_port", "much")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("processor", "cores_in_use_percent", 0),
        ("processor", "cores_in_use_percent", 101),
        ("processor", "cores_in_use_percent", True),
        ("processor", "cores_in_use_percent", "50"),
        ("processor", "cores_in_use_percent", 50.5),
        ("idle", "only", 1),
        ("idle", "only", "yes"),
        ("idle", "minutes", 0),
        ("graphics", "excluded", [-1]),
        ("graphics", "resume_celsius", 83),
        ("graphics", "slow_celsius", 84),
        ("schedule", "monday", ["8-9"]),
        ("schedule", "monday", "08:00-09:00"),
        ("modes", "cpu", "sometimes"),
        ("modes", "cpu_until", "tomorrow"),
        ("disk", "most_gb", float("inf")),
        ("disk", "most_gb", -1),
        ("programs", "exclusive", [""]),
        ("account", "nickname", "x" * 65),
        ("account", "colour", "red"),
    ],
)
def test_wrong_values_name_their_place(section: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=section) as caught:
        Settings.model_validate({section: {key: value}})
    assert key in problems(caught.value)  # type: ignore[arg-type]
    assert "Value error" not in problems(caught.value)  # type: ignore[arg-type]


def test_a_time_without_a_zone_is_of_the_wall_clock() -> None:
    settings = Settings.model_validate({"modes": {"cpu_until": "2026-11-23T08:00:00"}})
    until = settings.modes.cpu_until
    assert until is not None
    assert until.tzinfo is not None
    assert (until.hour, until.replace(tzinfo=None).timestamp()) == (8, until.timestamp())


def test_options_of_the_command_line_are_checked() -> None:
    with pytest.raises(Unusable, match="listen_port"):
        override(Settings(), listen_port=70_000)


def test_the_balanced_preset_is_the_default() -> None:
    assert with_preset(Settings(name="x"), "balanced") == Settings(name="x")
    assert preset_of(Settings()) == "balanced"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("before", PRESETS)
def test_presets_undo_one_another_and_keep_the_rest(preset: Preset, before: Preset, tmp_path: Any) -> None:
    mine = Settings.model_validate({"name": "x", "programs": {"exclusive": ["blender"]}})
    settings = with_preset(with_preset(mine, before), preset)
    assert preset_of(settings) == preset
    assert settings.programs.exclusive == ("blender",)
    assert Settings.model_validate(settings.model_dump()) == settings
    assert change(tmp_path / "settings.toml", {"name": "x", **preset_values(preset)}) == with_preset(
        Settings(name="x"), preset
    )


def test_more_is_never_less() -> None:
    for cores in (1, 2, 7, 64):
        for in_use in (False, True):
            given_threads = [threads(with_preset(Settings(), preset), cores, in_use) for preset in PRESETS]
            assert given_threads == sorted(given_threads)


def test_settings_of_ones_own_follow_no_preset() -> None:
    assert preset_of(Settings.model_validate({"processor": {"cores_in_use_percent": 33}})) is None


def test_differences_are_said_in_lines() -> None:
    before, after = Settings(name="x"), Settings.model_validate({"name": "x", "idle": {"minutes": 5, "only": True}})
    assert differences(before, before) == []
    assert differences(before, after) == ["idle.minutes: 3 -> 5 minutes", "idle.only: false -> true"]


def test_effects_are_said_from_the_settings() -> None:
    said = {preset: effect(with_preset(Settings(), preset), 8, 350) for preset in PRESETS}
    assert said["light"] == (
        "While this computer is idle: 4 of 8 cores, graphics cards with about 210 W on average. "
        "While you use it: nothing. At most 40 % of the memory. Fans stay rather quiet."
    )
    assert "7 of 8 cores" in said["balanced"]
    assert "4 of 8 cores, and no graphics card" in said["balanced"]
    assert "6 of 8 cores, and the graphics card too" in said["full"]
    assert "graphics cards at 100 % of their power" in effect(Settings(), 8)
    off = Settings.model_validate({"graphics": {"enabled": False}})
    assert effect(off, 2).startswith("While this computer is idle: 1 of 2 cores, no graphics card.")


@given(st.sampled_from(sorted(describe())), st.text(max_size=20))
def test_anything_may_be_typed(name: str, text: str) -> None:
    with contextlib.suppress(Unusable):
        json.dumps(parse(name, text))
