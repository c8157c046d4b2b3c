"""`settings.toml` on a disk: what is wrong with it is said, and nothing of it is ever lost."""

import logging
import os
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from legion.errors import LegionError, NotFound, StorageFailed, Unusable
from legion_client.settings import VERSION, Settings, change, describe, load, read, values

WRITTEN = """# mine
name = "attic"  # where it stands

[zebra]
stripes = 3

[processor]
# half of it hums
cores_in_use_percent = 25

# the evening
[schedule]
enabled = true
monday = [
    "18:00-07:00",  # until Tuesday
]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_no_file_means_the_defaults(file: Path) -> None:
    assert load(file) == Settings()
    found = read(file)
    assert (found.settings, found.problem, found.usable, found.chosen) == (Settings(), "", True, ())


def test_an_empty_file_is_told_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.touch()
    found = read(file)
    assert found.settings == Settings()
    assert found.usable
    assert "is empty" in found.problem
    with caplog.at_level(logging.WARNING):
        assert load(file) == Settings()
    assert "is empty" in caplog.text
    file.write_text("# nothing chosen\n")
    assert read(file).problem == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name = ", "is not TOML"),
        (b"name = 'a'\nname = 'b'", "is not TOML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"version = 2", r"newer Legion \(version 2 of the file, this one knows 1\)"),
        (b"version = 2\n[quantum]\nqubits = 4", "newer Legion"),
        (b"version = 'new'", "version is 'new'"),
        (b"version = 0", "version is 0"),
        (b"version = true", "version is True"),
        (b"#" * 1_000_001, "larger than"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
    ],
)
def test_a_file_that_nobody_understands_stops_training_and_is_never_written_to(
    file: Path, content: bytes, says: str
) -> None:
    file.write_bytes(content)
    found = read(file)
    assert (found.settings, found.usable) == (Settings(), False)
    with pytest.raises(Unusable, match=says) as caught:
        load(file)
    assert found.problem == str(caught.value)
    with pytest.raises(Unusable, match=says):
        change(file, {"idle.only": True})
    assert file.read_bytes() == content


def test_a_folder_in_its_place(file: Path) -> None:
    file.mkdir()
    assert not read(file).usable
    with pytest.raises(Unusable, match="cannot be read"):
        change(file, {"idle.only": True})


@pytest.mark.parametrize(
    ("text", "names", "held"),
    [
        ("colour = 'red'\n[idle]\nonly = true", "colour", {"idle.only": True}),
        ("[idle]\nonly = true\nminutes = 'many'", "idle.minutes", {"idle.only": True, "idle.minutes": 3}),
        ("idle = 3\nlisten_port = 7", "idle", {"listen_port": 7, "idle.minutes": 3}),
        ("[future]\nx = 1\n[idle]\nx = 1\nminutes = 5", "future", {"idle.minutes": 5}),
        ("[graphics]\npause_celsius = 60\nin_use = true\n[idle]\nminutes = 5", "resume_celsius", {"idle.minutes": 5}),
        ("[schedule]\nmonday = ['8-9']\nenabled = true", "schedule.monday", {"schedule.enabled": True}),
        ("name = ''\nlisten_port = -1\n[idle]\nonly = true", "listen_port", {"listen_port": 0, "idle.only": True}),
    ],
)
def test_a_mistake_costs_only_its_own_setting(file: Path, text: str, names: str, held: dict[str, Any]) -> None:
    file.write_text(text)
    found = read(file)
    assert found.usable
    assert names in found.problem
    assert "\n" not in found.problem
    assert {name: values(found.settings)[name] for name in held} == held
    with pytest.raises(Unusable, match=names):
        load(file)


def test_files_of_before_are_read(file: Path) -> None:
    file.write_text('name = "attic"\nlisten_host = "10.0.0.2"\nlisten_port = 5000\n')
    found = load(file)
    assert (found.name, found.listen_host, found.listen_port) == ("attic", "10.0.0.2", 5000)
    assert read(file).chosen == ("name", "listen_host", "listen_port")


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[idle]\r\nminutes = 9\r\n")
    assert load(file).idle.minutes == 9


def test_a_change_keeps_comments_order_and_what_it_does_not_know(file: Path) -> None:
    file.write_text(WRITTEN)
    held = change(file, {"processor.cores_in_use_percent": 30, "schedule.tuesday": [], "modes.gpu": "never"})
    assert (held.processor.cores_in_use_percent, held.schedule.tuesday, held.modes.gpu) == (30, (), "never")
    text = file.read_text()
    lines = WRITTEN.replace("= 25", "= 30").splitlines()
    kept = iter(text.splitlines())
    assert all(line in kept for line in lines), "all lines are there, in their order"
    assert tomllib.loads(text)["version"] == VERSION
    assert read(file).settings == held
    assert "zebra" in read(file).problem


def test_the_first_change_makes_the_file_and_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "new" / "settings.toml"
    change(file, {"idle.minutes": 5})
    assert file.read_text() == "version = 1\n\n[idle]\nminutes = 5\n"
    assert [path.name for path in file.parent.iterdir()] == ["settings.toml"]


def test_none_takes_a_setting_back_to_its_default(file: Path) -> None:
    change(file, {"name": "attic", "idle.minutes": 5, "idle.only": True})
    held = change(file, {"name": None, "idle.minutes": None, "disk.most_gb": None})
    assert held == Settings.model_validate({"idle": {"only": True}})
    assert read(file).chosen == ("idle.only",)


def test_changing_nothing_writes_nothing(file: Path) -> None:
    change(file, {"idle.minutes": 5})
    before = file.stat()
    change(file, {"idle.minutes": 5})
    change(file, {})
    assert file.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"idle.minutes": 0}, "idle.minutes"),
        ({"idle.minutes": "5"}, "idle.minutes"),
        ({"schedule.monday": ["22-7"]}, "22-7"),
        ({"graphics.pause_celsius": 60}, "resume_celsius must be below"),
        ({"modes.cpu_until": "soon"}, "modes.cpu_until"),
        ({"idle.minutes": object()}, "idle.minutes"),
        ({"name": "x" * 65}, "name"),
    ],
)
def test_all_or_nothing(file: Path, wrong: dict[str, Any], says: str) -> None:
    file.write_text(WRITTEN)
    with pytest.raises(Unusable, match=says) as caught:
        change(file, {"idle.only": True, **wrong})
    assert "nothing has changed" in str(caught.value)
    assert file.read_text() == WRITTEN


def test_an_unknown_name_changes_nothing(file: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no setting idle\.seconds"):
        change(file, {"idle.only": True, "idle.seconds": 1})
    assert not file.exists()


def test_limits_that_belong_together_change_together(file: Path) -> None:
    held = change(file, {"graphics.slow_celsius": 60, "graphics.pause_celsius": 65, "graphics.resume_celsius": 55})
    assert held.graphics.pause_celsius == 65


def test_a_mistake_of_before_does_not_forbid_another_change(file: Path) -> None:
    file.write_text("[idle]\nminutes = 'many'\n")
    assert change(file, {"idle.only": True}).idle.only
    assert tomllib.loads(file.read_text())["idle"] == {"minutes": "many", "only": True}
    assert change(file, {"idle.minutes": 4}).idle.minutes == 4
    assert read(file).problem == ""
    file.write_text("idle = 3\n")
    with pytest.raises(Unusable, match="idle is not a section"):
        change(file, {"idle.only": True})


@pytest.mark.parametrize(
    "text", ["idle.minutes = 4\n", "idle = { minutes = 4 }\n", "[idle]\nminutes = 4\n\n[disk]\n\n[idle.deep]\nx = 1\n"]
)
def test_other_ways_to_write_a_section(file: Path, text: str) -> None:
    file.write_text(text)
    held = change(file, {"idle.only": True, "name": "attic"})
    assert (held.idle.only, held.idle.minutes, held.name) == (True, 4, "attic")
    assert read(file).settings == held


def test_times_are_written_for_people(file: Path) -> None:
    at = datetime(2026, 11, 23, 8, 0, 0, 999, tzinfo=UTC)
    for value in (at, at.timestamp(), at.isoformat()):
        held = change(file, {"modes.paused": True, "modes.paused_until": value})
        assert held.modes.paused_until == at.replace(microsecond=0)
        assert read(file).settings == held
        assert isinstance(tomllib.loads(file.read_text())["modes"]["paused_until"], datetime)


def test_a_read_only_file_stays(file: Path) -> None:
    file.write_text(WRITTEN)
    file.chmod(0o444)
    with pytest.raises(StorageFailed, match=r"settings.toml could not be written \(it is read-only\); it is as it was"):
        change(file, {"idle.only": True})
    assert file.read_text() == WRITTEN
    assert [path.name for path in file.parent.iterdir()] == ["settings.toml"]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="folders have no such permission there")
def test_a_read_only_folder() -> None:
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.toml"
        file.write_text(WRITTEN)
        file.chmod(0o666)
        Path(folder).chmod(0o555)
        try:
            if root:  # for whom nothing is read-only
                os.seteuid(65534)
            with pytest.raises(StorageFailed, match=r"could not be written \(Permission denied\); it is as it was"):
                change(file, {"idle.only": True})
        finally:
            if root:
                os.seteuid(0)
            Path(folder).chmod(0o755)
        assert file.read_text() == WRITTEN


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(LegionError, match=r"settings\.toml") as caught:
        change(tmp_path / "home" / "settings.toml", {"idle.only": True})
    assert "\n" not in str(caught.value)
    assert (tmp_path / "home").read_text() == "a file"


def test_a_disk_that_fails_in_the_middle_loses_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(WRITTEN)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        change(file, {"idle.only": True})
    assert file.read_text() == WRITTEN
    assert [path.name for path in file.parent.iterdir()] == ["settings.toml"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_and_its_targets_mode_are_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "dotfiles.toml", tmp_path / "settings.toml"
    target.write_text(WRITTEN)
    target.chmod(0o640)
    link.symlink_to(target)
    change(link, {"idle.only": True})
    assert link.is_symlink()
    assert read(target).settings.idle.only
    assert target.stat().st_mode & 0o777 == 0o640


TEXT = st.characters(codec="utf-8")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.none() | st.text(TEXT, min_size=1, max_size=64),
    "account.team": st.none() | st.text(TEXT, max_size=64),
    "listen_port": st.none() | st.integers(0, 65535),
    "idle.only": st.none() | st.booleans(),
    "idle.minutes": st.none() | st.integers(1, 1440),
    "disk.most_gb": st.none() | st.floats(0, 1e6),
    "programs.exclusive": st.none() | st.lists(st.text(TEXT, min_size=1, max_size=8), max_size=3),
    "graphics.excluded": st.none() | st.lists(st.integers(0, 255), max_size=3),
    "schedule.sunday": st.none() | st.just(["22:00-07:00", "12:00-13:00"]),
    "modes.gpu": st.none() | st.sampled_from(["auto", "always", "never"]),
    "modes.gpu_until": st.none() | st.integers(40_000_000, 2**32),
}
ANYTHING = st.recursive(
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.text(TEXT, max_size=8)
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["only", "cpu", "x y"]), inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from([*Settings.model_fields, "stranger"]), ANYTHING, max_size=2),
    st.dictionaries(st.sampled_from(sorted(describe())), ANYTHING, max_size=3),
)
def test_whatever_stands_in_the_file(tmp_path: Path, top: dict[str, Any], named: dict[str, Any]) -> None:
    document: dict[str, Any] = dict(top)
    for name, value in named.items():
        section, _, key = name.rpartition(".")
        if section:
            document[section] = {**(old if isinstance(old := document.get(section), dict) else {}), key: value}
        else:
            document[key] = value
    file = tmp_path / "settings.toml"
    file.write_text(tomlkit.dumps(document), encoding="utf-8", newline="")
    found = read(file)
    assert found.usable
    assert "\n" not in found.problem
    assert set(found.chosen) <= set(describe())
    assert Settings.model_validate(found.settings.model_dump()) == found.settings
    before = file.read_bytes()
    try:
        held = change(file, {"account.team": "blue"})
    except Unusable:
        assert file.read_bytes() == before
    else:
        assert read(file).settings == held
        assert held == found.settings.model_copy(update={"account": held.account})


CHANGES = st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["", WRITTEN, "# only this", "[idle]\r\nminutes = 4\r\n"]), CHANGES)
def test_what_is_changed_is_what_is_read(tmp_path: Path, text: str, changes: list[dict[str, Any]]) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(text.encode())
    wanted = values(read(file).settings)
    for one in changes:
        held = change(file, one)
        assert read(file).settings == held
        for name, value in one.items():
            wanted[name] = describe()[name].default if value is None else value
        now = values(held)
        for name in wanted:
            if not name.endswith("_until") and wanted[name] is not None:
                assert now[name] == wanted[name]
