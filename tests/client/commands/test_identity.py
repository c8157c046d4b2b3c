"""An identity on its way through a file: what comes back, what is refused, and that nothing is ever lost."""

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identities import issue

from legion.errors import Unusable
from legion.ids import RunId
from legion_client.agent.enrolment import Enrolment
from legion_client.commands import identity as identities
from legion_client.commands.identity import decrypted, encrypted
from tests.client.commands.conftest import Client

PASSPHRASE = "correct horse battery"
CHEAP = (2, 1, 1)  # what is tested is the file, not how long a guess takes


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> list[Enrolment]:
    authority = tmp_path_factory.mktemp("authority")
    return [
        Enrolment("https://127.0.0.1:1", RunId("run-x"), "bearer", one, one.worker_id) for one in issue(authority, 2)
    ]


def test_there_and_back(
    client: Client, make_client: Callable[[str], Client], enrolled: list[Enrolment], tmp_path: Path
) -> None:
    enrolled[0].save(client.home / "identity")
    file = tmp_path / "saved.identity"
    stdin = f"{PASSPHRASE}\n"
    told = client.json("identity", "export", str(file), "--passphrase-stdin", stdin=stdin)
    assert told["worker_id"] == enrolled[0].worker_id
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = file.read_text()
    assert "PRIVATE" not in content
    assert "bearer" not in content
    other = make_client("other")
    other.run("identity", "import", str(file), "--passphrase-stdin", stdin=stdin)
    assert Enrolment.load(other.home / "identity") == enrolled[0]
    assert stat.S_IMODE((other.home / "identity" / "key.pem").stat().st_mode) == 0o600


def test_nothing_is_overwritten(client: Client, enrolled: list[Enrolment], tmp_path: Path) -> None:
    enrolled[0].save(client.home / "identity")
    file, stdin = tmp_path / "saved", f"{PASSPHRASE}\n"
    client.run("identity", "export", str(file), "--passphrase-stdin", stdin=stdin)
    saved = file.read_bytes()
    assert "exists and stays as it is" in client.run(
        "identity", "export", str(file), "--passphrase-stdin", stdin=stdin, code=10
    )
    assert file.read_bytes() == saved
    enrolled[1].save(client.home / "identity")
    refused = client.run("identity", "import", str(file), "--passphrase-stdin", stdin=stdin, code=10)
    assert f"this computer is {enrolled[1].worker_id} already" in refused
    assert Enrolment.load(client.home / "identity") == enrolled[1]
    told = client.json("identity", "import", str(file), "--passphrase-stdin", "--replace", stdin=stdin)
    assert Enrolment.load(client.home / "identity") == enrolled[0]
    assert Enrolment.load(Path(told["aside"])) == enrolled[1]


def test_wrong_passphrases_and_a_running_agent(client: Client, enrolled: list[Enrolment], tmp_path: Path) -> None:
    enrolled[0].save(client.home / "identity")
    file = tmp_path / "saved"
    arguments = ("identity", "export", str(file), "--passphrase-stdin")
    assert "at least 8 characters" in client.run(*arguments, stdin="short\n", code=2)
    assert "nobody can be asked" in client.run(*arguments[:3], code=2)
    assert not file.exists()
    client.run(*arguments, stdin=f"{PASSPHRASE}\n")
    arguments = ("identity", "import", str(file), "--passphrase-stdin")
    assert "passphrase is wrong" in client.run(*arguments, stdin="another one\n", code=2)
    with client.agent():
        assert "already runs" in client.run(*arguments, stdin=f"{PASSPHRASE}\n", code=44)


@pytest.fixture(scope="module")
def sealed() -> bytes:
    before, identities.COST = identities.COST, CHEAP
    try:
        return encrypted({"key.pem": b"secret"}, PASSPHRASE)
    finally:
        identities.COST = before


def test_what_was_sealed_comes_back(sealed: bytes) -> None:
    assert decrypted(sealed, PASSPHRASE) == {"key.pem": b"secret"}
    assert b"secret" not in base64.b64decode(json.loads(sealed)["sealed"])


@settings(max_examples=60)
@given(data=st.data())
def test_any_changed_character_is_noticed(sealed: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.integers(32, 126).filter(lambda code: code != sealed[place]))
    with pytest.raises(Unusable):
        decrypted(sealed[:place] + bytes([other]) + sealed[place + 1 :], PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"scrypt": [2**30, 8, 1]},
        {"scrypt": [2**16, 8, 10**6]},
        {"scrypt": [0, 0, 0]},
        {"scrypt": [3, 1, 1]},
        {"scrypt": "2"},
        {"scrypt": None},
        {"format": "legion-identity-2"},
        {"nonce": ""},
        {"salt": "?"},
        {"sealed": 5},
    ],
)
def test_costs_and_formats_that_are_not_ours(sealed: bytes, change: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match="not an exported identity"):
        decrypted(json.dumps(json.loads(sealed) | change).encode(), PASSPHRASE)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b" " * 2_000_000])
def test_files_of_another_kind(data: bytes) -> None:
    with pytest.raises(Unusable, match="not an exported identity"):
        decrypted(data, PASSPHRASE)
