"""Tokens: random, compared by hash, and the admin's kept in a private file."""

from pathlib import Path

import pytest

from legion.errors import StorageFailed, Unusable
from legion_server.auth import tokens


def test_the_admin_token_is_made_once_and_private(tmp_path: Path) -> None:
    token = tokens.open_admin_token(tmp_path, None)
    assert tokens.open_admin_token(tmp_path, None) == token
    assert tokens.admin_token_file(tmp_path).stat().st_mode & 0o077 == 0
    assert len(token) >= 43  # 256 bits


def test_a_chosen_token_wins_and_is_not_written(tmp_path: Path) -> None:
    assert tokens.open_admin_token(tmp_path, "0123456789abcdef") == "0123456789abcdef"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Unusable, match="shorter than 16"):
        tokens.open_admin_token(tmp_path, "short")


def test_an_unreadable_token_file_is_named(tmp_path: Path) -> None:
    tokens.admin_token_file(tmp_path).mkdir()
    with pytest.raises(StorageFailed, match="admin-token"):
        tokens.open_admin_token(tmp_path, None)


def test_same_compares_with_the_hash() -> None:
    token = tokens.new_token()
    assert tokens.same(token, tokens.token_sha256(token))
    assert not tokens.same(token + "x", tokens.token_sha256(token))
    assert token != tokens.new_token()
