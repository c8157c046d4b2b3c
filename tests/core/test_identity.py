"""Keys, invites and TLS contexts: what is written is read back, and what is wrong is refused by name."""

import hashlib
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import load_pem_x509_csr
from hypothesis import given, settings
from hypothesis import strategies as st

from legion import identity, keys
from legion.errors import InviteInvalid, StorageFailed, Unusable
from legion.identity import Identity, Invite
from legion.ids import host_name

SHA = "ab" * 32


def test_worker_id_belongs_to_the_public_half() -> None:
    key = keys.new_key()
    worker = keys.worker_id_of_key(key)
    assert worker == keys.worker_id_of_key(key.public_key())
    assert len(worker) == 32
    assert worker != keys.worker_id_of_key(keys.new_key())


def test_key_survives_pem() -> None:
    key = keys.new_key()
    assert keys.worker_id_of_key(keys.load_key(keys.key_pem(key))) == keys.worker_id_of_key(key)


def test_foreign_keys_are_refused() -> None:
    other_curve = keys.key_pem(ec.generate_private_key(ec.SECP384R1()))
    other_kind = keys.key_pem(rsa.generate_private_key(65537, 2048))  # type: ignore[arg-type]
    for pem in (other_curve, other_kind, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(Unusable, match="private key"):
            keys.load_key(pem)


def test_signing_request_names_the_worker_and_is_signed() -> None:
    key = keys.new_key()
    request = load_pem_x509_csr(keys.signing_request(key).encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == f"CN={host_name(keys.worker_id_of_key(key))}"


@settings(deadline=None)
@given(
    st.from_regex(r"[a-z][a-z0-9.-]{0,30}[a-z0-9]", fullmatch=True) | st.ip_addresses().map(str),
    st.integers(1, 65535),
    st.text(min_size=1, max_size=60),
)
def test_invites_survive_their_text(host: str, port: int, token: str) -> None:
    invite = Invite(host, port, token, SHA)
    assert Invite.parse(f" {invite}\n") == invite


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "looks like legion://"),
        (f"https://host:1/?token=t&ca={SHA}", "looks like legion://"),
        (f"legion://host/?token=t&ca={SHA}", "no host and port"),
        (f"legion://host:99999/?token=t&ca={SHA}", "address"),
        (f"legion://host:1/?ca={SHA}", "'token' exactly once"),
        (f"legion://host:1/?token=a&token=b&ca={SHA}", "'token' exactly once"),
        ("legion://host:1/?token=t", "'ca' exactly once"),
        (f"legion://host:1/?token=t&ca={SHA[:-1]}", "cut short"),
        (f"legion://host:1/?token=t&ca={'g' * 64}", "cut short"),
        ("legion://[::1/?token=t", "address"),
    ],
)
def test_bad_invites_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InviteInvalid, match=says):
        Invite.parse(text)


def test_base_url_brackets_ipv6() -> None:
    assert Invite("::1", 8000, "t", SHA).base_url == "https://[::1]:8000"


def self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def test_an_identity_is_kept_and_its_key_hidden(tmp_path: Path) -> None:
    key = keys.new_key()
    mine = Identity(keys.key_pem(key), self_signed(key), b"authority")
    mine.save(tmp_path / "identity")
    assert Identity.load(tmp_path / "identity") == mine
    assert mine.worker_id == keys.worker_id_of_key(key)
    assert stat.S_IMODE((tmp_path / "identity" / "key.pem").stat().st_mode) == 0o600


def test_a_certificate_for_another_key_is_noticed(tmp_path: Path) -> None:
    Identity(keys.key_pem(keys.new_key()), self_signed(keys.new_key()), b"authority").save(tmp_path)
    with pytest.raises(Unusable, match="not for the key beside it"):
        Identity.load(tmp_path)
    (tmp_path / "certificate.pem").write_bytes(b"rubbish")
    with pytest.raises(Unusable, match="not a PEM certificate"):
        Identity.load(tmp_path)


def test_a_fingerprint_is_of_the_der_whatever_the_pem_looks_like() -> None:
    pem = self_signed(keys.new_key())
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    sha256 = hashlib.sha256(der).hexdigest()
    assert identity.fingerprint(pem) == identity.fingerprint(b"a comment\n" + pem) == sha256
    assert identity.same_authority(pem.decode(), sha256.upper())
    with pytest.raises(Unusable, match="not a PEM certificate"):
        identity.fingerprint("rubbish")


def test_missing_identity_says_join(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no identity") as caught:
        Identity.load(tmp_path)
    assert "invite" in caught.value.hint


def test_write_private_replaces_whole_and_hides(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    identity.write_private(path, b"one")
    identity.write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["secret"]


def test_write_private_names_the_path_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed, match="file/secret"):
        identity.write_private(tmp_path / "file" / "secret", b"x")


def test_unverified_context_is_the_only_trusting_one() -> None:
    assert identity.unverified_context().verify_mode is ssl.CERT_NONE
