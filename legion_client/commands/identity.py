"""`identity export|import`: this computer's key and its place at a server, as one file under a passphrase.

The file is JSON: the salt and cost of scrypt (RFC 7914), which makes a key of the passphrase, and the files of the
identity folder under AES-256-GCM (NIST SP 800-38D), with everything else in the file authenticated too.
"""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from legion.errors import Refused, StorageFailed, Unusable
from legion_client.commands.terminal import Json, home_of, show
from legion_client.paths import Home

app = typer.Typer(help="Keep this computer's identity safe, or take it to another one.", no_args_is_help=True)

FORMAT = "legion-identity-1"
LEAST_CHARACTERS = 8
MOST_BYTES = 1_000_000
# scrypt's N, r, p: 64 MB and a fraction of a second (OWASP asks for N = 2^17 at r = 8, or 2^16 with p = 2).
COST = (2**16, 8, 2)
MOST_COST = (2**18, 8, 4)  # 256 MB: a file from somebody else must not take this computer away for a year


@app.command("export")
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Written new; must not exist.")],
    stdin: Annotated[bool, typer.Option("--passphrase-stdin", help="Read it from the first line of input.")] = False,
    as_json: Json = False,
) -> None:
    """Write this computer's key and its place at the server to an encrypted file."""
    from legion.identity import write_private

    home = home_of(context)
    content = _content(home)
    if file.exists():
        raise Refused(f"{file} exists and stays as it is", hint="Name a file that does not exist yet.")
    write_private(file.absolute(), encrypted(content, _passphrase(stdin, confirm=True)))
    show(as_json, {"file": str(file), "worker_id": _worker_id(content)}, f"Exported {_worker_id(content)} to {file}.")


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="As 'identity export' wrote it.")],
    stdin: Annotated[bool, typer.Option("--passphrase-stdin", help="Read it from the first line of input.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the identity that is here aside, in a folder beside it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take an exported identity. Use it on one computer at a time."""
    from legion_client.control.instance import sole

    home = home_of(context)
    try:
        sealed = file.read_bytes()[: MOST_BYTES + 1]
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}") from error
    content = decrypted(sealed, _passphrase(stdin, confirm=False))
    worker_id = _worker_id(content)
    with sole(home.control):  # an agent that runs has its key in memory and would go on with it
        aside = _make_room(home, content, replace=replace)
        _write(home.identity, content)
    kept = f" The one before is in {aside}." if aside else ""
    show(as_json, {"worker_id": worker_id, "aside": aside and str(aside)}, f"Imported {worker_id}.{kept}")


def encrypted(content: dict[str, bytes], passphrase: str) -> bytes:
    """Files by name, sealed. Every call has a fresh salt, and so a key that is used once."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(16), os.urandom(12)
    head: dict[str, Any] = {"format": FORMAT, "scrypt": [*COST], "salt": _text(salt), "nonce": _text(nonce)}
    plain = json.dumps({name: _text(data) for name, data in content.items()}).encode()
    sealed = AESGCM(_key(passphrase, salt, COST)).encrypt(nonce, plain, _head(head))
    return json.dumps(head | {"sealed": _text(sealed)}).encode()


def decrypted(data: bytes, passphrase: str) -> dict[str, bytes]:
    """What `encrypted` sealed. Unusable for a file of another kind, a wrong passphrase or a single changed bit."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    wrong = Unusable("that is not an exported identity", hint="It is what 'legion-client identity export' wrote.")
    try:
        head = json.loads(data) if len(data) <= MOST_BYTES else {}
        sealed, nonce, salt = (base64.b64decode(head[part], validate=True) for part in ("sealed", "nonce", "salt"))
        n, r, p = (int(part) for part in head["scrypt"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise wrong from error
    known = head.get("format") == FORMAT and len(nonce) == 12 and len(salt) == 16
    bearable = all(1 <= cost <= most for cost, most in zip((n, r, p), MOST_COST, strict=True))
    # Base64 has several texts for the same bytes; only one of them was written.
    if not known or not bearable or n < 2 or n & n - 1 or _text(sealed) != head["sealed"]:
        raise wrong
    try:
        plain = AESGCM(_key(passphrase, salt, (n, r, p))).decrypt(nonce, sealed, _head(head))
    except InvalidTag as error:
        raise Unusable("the passphrase is wrong, or the file was changed", hint="Try the passphrase again.") from error
    return {name: base64.b64decode(text) for name, text in json.loads(plain).items()}


def _key(passphrase: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    n, r, p = cost
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(passphrase.encode())


def _head(head: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in sorted(head.items()) if name != "sealed"}).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _files() -> list[str]:
    from legion.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE
    from legion_client.agent.enrolment import ENROLMENT_FILE

    # The enrolment last: without it a folder counts as empty, and with it everything else is there.
    return [KEY_FILE, AUTHORITY_FILE, CERTIFICATE_FILE, ENROLMENT_FILE]


def _content(home: Home) -> dict[str, bytes]:
    from legion.identity import KEY_FILE

    try:
        found = {name: (home.identity / name).read_bytes() for name in _files() if (home.identity / name).exists()}
    except OSError as error:
        raise StorageFailed(f"{home.identity} cannot be read: {error.strerror}") from error
    if KEY_FILE not in found:
        raise Unusable("this computer has no identity yet", hint="Join a server first: legion-client join FILE.")
    return found


def _worker_id(content: dict[str, bytes]) -> str:
    from legion.identity import KEY_FILE
    from legion.keys import load_key, worker_id_of_key

    if KEY_FILE not in content or set(content) - set(_files()):
        raise Unusable("the file holds no identity of Legion")
    return worker_id_of_key(load_key(content[KEY_FILE]))


def _make_room(home: Home, content: dict[str, bytes], *, replace: bool) -> Path | None:
    """Nothing is lost: another identity is put aside, and only if that was asked for."""
    from legion.identity import KEY_FILE

    old = home.identity / KEY_FILE
    if not old.exists():
        return None
    here = _worker_id(_content(home))
    if old.read_bytes() != content[KEY_FILE] and not replace:
        raise Refused(
            f"this computer is {here} already", hint="--replace puts its identity aside; 'identity export' saves it."
        )
    number = 1
    while (aside := home.root / f"identity-{here}-{number}").exists():
        number += 1
    try:
        home.identity.rename(aside)
    except OSError as error:
        raise StorageFailed(f"{home.identity} cannot be put aside: {error.strerror}") from error
    return aside


def _write(folder: Path, content: dict[str, bytes]) -> None:
    from legion.identity import write_private

    for name in _files():
        if name in content:
            write_private(folder / name, content[name])


def _passphrase(stdin: bool, *, confirm: bool) -> str:
    """From a prompt that shows nothing, or from a pipe; never from the command line or the environment."""
    if stdin:
        passphrase = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        passphrase = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm)
    else:
        raise Unusable("nobody can be asked for a passphrase here", hint="Pass --passphrase-stdin, and it as input.")
    if confirm and len(passphrase) < LEAST_CHARACTERS:
        raise Unusable(f"a passphrase has at least {LEAST_CHARACTERS} characters")
    return passphrase
