"""Settings from the environment and from flags, and who may speak plain HTTP."""

from pathlib import Path

import pytest

from legion.errors import Unusable
from legion_server.settings import load_settings


def test_the_environment_is_read_and_flags_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEGION_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LEGION_PORT", "9000")
    monkeypatch.setenv("LEGION_NAMES", "legion.example, 10.0.0.7")
    found = load_settings(port=9001, host=None)
    assert (found.data_dir, found.port, found.names) == (tmp_path, 9001, ("legion.example", "10.0.0.7"))
    assert found.database == f"sqlite+aiosqlite:///{tmp_path / 'legion.db'}"


@pytest.mark.parametrize(
    ("name", "value"), [("LEGION_PORT", "99999"), ("LEGION_TRUSTED_PROXIES", "10.0.0.0/40"), ("LEGION_ASSEMBLER", "x")]
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Unusable, match=name):
        load_settings()


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("10.2.0.1", False),
        ("192.168.0.5", False),
        ("fe80::1%eth0", False),
    ],
)
def test_plain_http_is_for_this_machine_and_trusted_proxies(
    monkeypatch: pytest.MonkeyPatch, peer: str, allowed: bool
) -> None:
    monkeypatch.setenv("LEGION_TRUSTED_PROXIES", "10.1.0.0/16,192.168.0.4")
    assert load_settings().may_speak_plainly(peer) is allowed
