"""The server's certificate authority: made at first start, it alone says which keys belong to this server's workers.

The authority's key never leaves the data folder. What a signing request wishes for is ignored but its key.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from legion.errors import ClockBehind, StorageFailed, Unusable
from legion.identity import write_private
from legion.ids import RelayId, WorkerId, host_name
from legion.keys import PrivateKey, key_pem, load_key, new_key, worker_id_of_key
from legion.relaying import relay_name

WORKER_VALID_S = 30 * 86_400
AUTHORITY_VALID = timedelta(days=3650)
# Browsers and strict clients refuse server certificates that live longer.
SERVER_VALID = timedelta(days=397)
CLOCK_SKEW = timedelta(hours=1)  # a worker whose clock is behind must not see a certificate from the future
LONGEST_REQUEST = 10_000  # characters
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server-key.pem"


class Authority:
    """The root certificate, its key, and where they lie."""

    def __init__(self, folder: Path, key: PrivateKey, certificate: x509.Certificate) -> None:
        self._folder = folder
        self._server_folder = folder
        self._key = key
        self._certificate = certificate
        self.certificate_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.fingerprint = certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def certificate_file(self) -> Path:
        return self._folder / "ca.pem"

    @property
    def server_certificate_file(self) -> Path:
        return self._server_folder / SERVER_CERTIFICATE

    @property
    def server_key_file(self) -> Path:
        return self._server_folder / SERVER_KEY

    def sign_worker(self, csr_pem: str, now: float) -> tuple[WorkerId, str, float]:
        """Worker id, certificate (PEM, client and server use) and its end, s since 1970. Unusable for a bad request."""
        public = requested_key(csr_pem)
        worker = worker_id_of_key(public)
        until = now + WORKER_VALID_S
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        name = host_name(worker)
        certificate = self._sign(public, name, [x509.DNSName(name)], usages, now, until)
        return worker, certificate.public_bytes(serialization.Encoding.PEM).decode(), until

    def sign_relay(self, csr_pem: str, now: float) -> tuple[RelayId, str, float]:
        """Relay id, certificate (PEM, server use only) and its end, s since 1970. Unusable for a bad request."""
        public = requested_key(csr_pem)
        relay = RelayId(worker_id_of_key(public))
        name = relay_name(relay)
        until = now + SERVER_VALID.total_seconds()
        names = [x509.DNSName(name)]
        certificate = self._sign(public, name, names, [ExtendedKeyUsageOID.SERVER_AUTH], now, until)
        return relay, certificate.public_bytes(serialization.Encoding.PEM).decode(), until

    def secret(self, purpose: str) -> str:
        """What those alone can know who hold the authority's key; another one for each purpose."""
        derived = HKDF(hashes.SHA256(), 32, None, purpose.encode()).derive(key_pem(self._key))
        return derived.hex()

    def issue_server(self, hosts: Iterable[str], now: float, folder: Path | None = None) -> None:
        """A fresh key and certificate for the HTTPS port, good for these names and addresses.

        Also a client's: workers that the server dials back to let nobody in without one. `folder`: of a server that
        shares the authority's with others.
        """
        self._server_folder = folder or self._folder
        key = new_key()
        names = [_general_name(host) for host in sorted(set(hosts))]
        until = now + SERVER_VALID.total_seconds()
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = self._sign(key.public_key(), "Legion server", names, usages, now, until)
        write_private(self.server_key_file, key_pem(key))
        write_private(self.server_certificate_file, certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self,
        public: ec.EllipticCurvePublicKey,
        common_name: str,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        now: float,
        until: float,
    ) -> x509.Certificate:
        issuer = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(now) - CLOCK_SKEW)
            .not_valid_after(_time(until))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def open_authority(folder: Path, now: float) -> Authority:
    """The authority in `folder`, made if there is none. Half an authority is an error, never silently replaced."""
    key_file, certificate_file = folder / "ca-key.pem", folder / "ca.pem"
    try:
        if key_file.exists() != certificate_file.exists():
            raise StorageFailed(
                f"{folder} holds only one of ca.pem and ca-key.pem",
                hint="Restore the missing file; without it every worker would have to join again.",
            )
        if key_file.exists():
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            _check_clock(certificate, now)
            return Authority(folder, load_key(key_file.read_bytes()), certificate)
    except OSError as error:
        raise StorageFailed(f"the certificate authority in {folder} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StorageFailed(f"{certificate_file} is not a PEM certificate", hint="Restore it from a backup.") from error
    key = new_key()
    certificate = _self_signed(key, now)
    # The key comes last: a crash between the two leaves a certificate without key, which the check above names.
    write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    write_private(key_file, key_pem(key))
    return Authority(folder, key, certificate)


def _check_clock(certificate: x509.Certificate, now: float) -> None:
    made = certificate.not_valid_before_utc
    if _time(now) < made:
        says, since = (f"{moment:%Y-%m-%d %H:%M} UTC" for moment in (_time(now), made))
        raise ClockBehind(f"this machine's clock says {says}, but the server's authority was made at {since}")


def requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a CSR whose sender holds the private half; Unusable otherwise."""
    if len(csr_pem) > LONGEST_REQUEST:
        raise Unusable(f"the signing request is longer than {LONGEST_REQUEST} characters")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        valid, public = request.is_signature_valid, request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Unusable("the signing request is not a PEM certificate signing request") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise Unusable("the signing request is not for an ECDSA P-256 key")
    if not valid:
        raise Unusable("the signing request is not signed by its own key")
    return public


def _self_signed(key: PrivateKey, now: float) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Legion certificate authority")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now) - CLOCK_SKEW)
        .not_valid_after(_time(now) + AUTHORITY_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass  # a name, then
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise Unusable(f"'{host}' is neither a host name nor an address") from error


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
