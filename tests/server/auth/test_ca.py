"""The authority: one root for ever, certificates for keys and nothing else that a request wishes for."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from legion import keys
from legion.errors import StorageFailed, Unusable
from legion.identity import fingerprint
from legion.ids import host_name
from legion_server.auth.ca import open_authority, requested_key

NOW = time.time()


def test_the_root_is_made_once(tmp_path: Path) -> None:
    first, again = open_authority(tmp_path, NOW), open_authority(tmp_path, NOW + 1e6)
    assert first.certificate_pem == again.certificate_pem
    assert first.fingerprint == fingerprint(first.certificate_pem)
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("lost", ["ca.pem", "ca-key.pem"])
def test_half_an_authority_is_never_replaced(tmp_path: Path, lost: str) -> None:
    open_authority(tmp_path, NOW)
    (tmp_path / lost).unlink()
    with pytest.raises(StorageFailed, match="only one of"):
        open_authority(tmp_path, NOW)


def test_a_worker_certificate_stands_up_to_a_strict_verifier(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW)
    key = keys.new_key()
    worker, pem, until = authority.sign_worker(keys.signing_request(key), NOW)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    root = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
    policy = PolicyBuilder().store(Store([root]))
    policy.build_server_verifier(x509.DNSName(host_name(worker))).verify(certificate, [])
    assert policy.build_client_verifier().verify(certificate, []).subjects is not None
    assert worker == keys.worker_id_of_key(key)
    assert certificate.not_valid_after_utc.timestamp() == pytest.approx(until, abs=1)
    assert until - NOW == timedelta(days=30).total_seconds()
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_wishes_in_a_request_are_ignored(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW)
    key = keys.new_key()
    names = x509.SubjectAlternativeName([x509.DNSName("bank.example")])
    wish = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    worker, pem, _ = authority.sign_worker(wish.public_bytes(serialization.Encoding.PEM).decode(), NOW)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == [host_name(worker)]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def request_with(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_bad_requests_are_refused() -> None:
    good = request_with(keys.new_key())
    der = bytearray(x509.load_pem_x509_csr(good.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    for bad, says in [
        ("", "not a PEM"),
        ("x" * 20_000, "longer than"),
        (good.replace("A", "B"), "signing request"),
        (request_with(rsa.generate_private_key(65537, 2048)), "P-256"),
        (request_with(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (forged, "not signed by its own key"),
    ]:
        with pytest.raises(Unusable, match=says):
            requested_key(bad)


def test_the_server_certificate_names_hosts_and_addresses(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW)
    authority.issue_server({"localhost", "127.0.0.1", "::1", "legion.example"}, NOW)
    certificate = x509.load_pem_x509_certificate(authority.server_certificate_file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(names.get_values_for_type(x509.DNSName)) == ["legion.example", "localhost"]
    assert sorted(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    assert authority.server_key_file.stat().st_mode & 0o077 == 0


def test_a_name_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="neither a host name nor an address"):
        open_authority(tmp_path, NOW).issue_server({"grüße.example"}, NOW)
