"""Who a program is: device key, certificates, invites, and the TLS contexts made of them.

A worker is its key: the worker id is the hash of the public key, and certificates of it are worth nothing without
the key, which never leaves the machine. Keys are ECDSA P-256, so that a gRPC channel can be narrowed to TLS 1.3.
"""

import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from legion.errors import InviteInvalid, StorageFailed, Unusable
from legion.ids import WorkerId, worker_id_of

PrivateKey = ec.EllipticCurvePrivateKey
KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
AUTHORITY_FILE = "authority.pem"


def new_key() -> PrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """PKCS #8, unencrypted: for files that only their owner can read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> PrivateKey:
    """The P-256 key in `pem`; Unusable if it holds anything else."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Unusable("the private key cannot be read: it is not an unencrypted PEM key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Unusable("the private key is not an ECDSA P-256 key")
    return key


def worker_id_of_key(key: PrivateKey | ec.EllipticCurvePublicKey) -> WorkerId:
    """The id that this key, or its public half, stands for."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return worker_id_of(
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def host_name(worker_id: WorkerId) -> str:
    """The name in a worker's certificate; it resolves nowhere, peers check it whatever address they dialled."""
    return f"{worker_id}.legion"


def signing_request(key: PrivateKey) -> str:
    """A CSR (PKCS #10, PEM) for the key's own worker id; the authority ignores every other wish in a CSR."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_name(worker_id_of_key(key)))])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate_pem: bytes | str) -> str:
    """SHA-256 of the certificate's DER, in hex: what an invite says of the authority."""
    pem = certificate_pem.encode() if isinstance(certificate_pem, str) else certificate_pem
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise Unusable("that is not a PEM certificate") from error
    return certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True)
class Identity:
    """A worker's key with its certificate and the authority that signed it, all PEM."""

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes

    @property
    def worker_id(self) -> WorkerId:
        return worker_id_of_key(load_key(self.key_pem))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Unusable when a file is missing or the certificate is not for the key."""
        try:
            identity = cls(
                (folder / KEY_FILE).read_bytes(),
                (folder / CERTIFICATE_FILE).read_bytes(),
                (folder / AUTHORITY_FILE).read_bytes(),
            )
        except OSError as error:
            raise Unusable(f"no identity in {folder}: {error.strerror}", hint="Join with an invite first.") from error
        identity._check(folder)
        return identity

    def save(self, folder: Path) -> None:
        """Each file is replaced as a whole; the key is readable by its owner only."""
        parts = {KEY_FILE: self.key_pem, AUTHORITY_FILE: self.authority_pem, CERTIFICATE_FILE: self.certificate_pem}
        for name, content in parts.items():
            write_private(folder / name, content)

    def _check(self, folder: Path) -> None:
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        except ValueError as error:
            raise Unusable(f"{folder / CERTIFICATE_FILE} is not a PEM certificate") from error
        if certificate.public_key() != load_key(self.key_pem).public_key():
            raise Unusable(
                f"the certificate in {folder} is not for the key beside it", hint="Join again with a new invite."
            )


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` with `content`, mode 0600, whole or not at all; StorageFailed when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp creates the file with mode 0600: the content is never readable by others, not even for a moment.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise StorageFailed(f"{path} cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class Invite:
    """`legion://HOST:PORT/?token=...&ca=SHA256`: where to enrol, the right to do so, and whom to believe there."""

    host: str
    port: int
    token: str
    authority_sha256: str  # of the authority's DER, hex, lower case

    @classmethod
    def parse(cls, text: str) -> Self:
        """InviteInvalid says which part is wrong."""
        text = text.strip()
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InviteInvalid(f"the invite's address is not valid: {error}") from error
        if parts.scheme != "legion":
            raise InviteInvalid("an invite looks like legion://HOST:PORT/?token=...&ca=...; this does not")
        if not host or not port:
            raise InviteInvalid("the invite names no host and port")
        fields = parse_qs(parts.query)
        token, authority = (_only(fields, name) for name in ("token", "ca"))
        if len(authority) != 64 or set(authority.lower()) - set("0123456789abcdef"):
            raise InviteInvalid("the invite's 'ca' is not a SHA-256 in hex: it was cut short or changed")
        return cls(host, port, token, authority.lower())

    @property
    def base_url(self) -> str:
        """Of the server's REST interface."""
        return f"https://{self._host_part}:{self.port}"

    @property
    def _host_part(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        query = urlencode({"token": self.token, "ca": self.authority_sha256})
        return f"legion://{self._host_part}:{self.port}/?{query}"


def _only(fields: dict[str, list[str]], name: str) -> str:
    values = fields.get(name, [])
    if len(values) != 1:
        raise InviteInvalid(f"the invite needs '{name}' exactly once, it is there {len(values)} times")
    return values[0]


def same_authority(authority_pem: bytes | str, sha256: str) -> bool:
    """Whether the certificate is the one an invite names."""
    return fingerprint(authority_pem) == sha256.lower()


def server_context(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """For a server; TLS 1.3 only. Files, because OpenSSL's interface in Python reads a chain from nowhere else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_file, key_file)
    return context


def mutual_server_context(folder: Path) -> ssl.SSLContext:
    """For a server whose callers show a certificate of the same authority; with what `Identity.save` wrote."""
    context = server_context(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    context.load_verify_locations(folder / AUTHORITY_FILE)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def mutual_client_context(folder: Path) -> ssl.SSLContext:
    """For a client that shows its certificate to servers of the same authority."""
    context = client_context((folder / AUTHORITY_FILE).read_bytes())
    context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    return context


def client_context(authority_pem: bytes | str) -> ssl.SSLContext:
    """For a client that believes this authority and no other, whatever the machine's store says."""
    pem = authority_pem if isinstance(authority_pem, str) else authority_pem.decode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names and requires a certificate
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=pem)
    return context


def unverified_context() -> ssl.SSLContext:
    """Believes anybody. For fetching /ca.pem before its fingerprint is checked; never send a secret over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
