"""Who a program is, as files: key, certificates, invites, and the TLS contexts made of them.

A worker is its key: certificates of it are worth nothing without the key, which never leaves the machine. What makes
and reads keys is in `legion.keys`.
"""

import hashlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit

from legion.errors import InviteInvalid, StorageFailed, Unusable
from legion.ids import WorkerId

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
AUTHORITY_FILE = "authority.pem"
OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")  # OpenSSL's names


def fingerprint(certificate_pem: bytes | str) -> str:
    """SHA-256 of the first certificate's DER, in hex: what an invite says of the authority."""
    try:
        text = certificate_pem.decode("ascii") if isinstance(certificate_pem, bytes) else certificate_pem
        pem = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError as error:
        raise Unusable("that is not a PEM certificate") from error


@dataclass(frozen=True)
class Identity:
    """A worker's key with its certificate and the authority that signed it, all PEM."""

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes

    @property
    def worker_id(self) -> WorkerId:
        from legion.keys import load_key, worker_id_of_key  # noqa: PLC0415  10 MB that an agent at rest does without

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
        """By OpenSSL, as TLS does it: `legion.keys` would cost an agent at rest 10 MB."""
        if b"-----BEGIN" not in self.key_pem:
            raise Unusable(f"{folder / KEY_FILE} is not an unencrypted PEM key")
        try:
            # An encrypted key would be asked about in the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE, "")
        except ssl.SSLError as error:
            if error.reason in OTHER_KEY:
                raise Unusable(
                    f"the certificate in {folder} is not for the key beside it", hint="Join again with a new invite."
                ) from error
            raise Unusable(
                f"{folder / CERTIFICATE_FILE} is not a PEM certificate, or {KEY_FILE} beside it no unencrypted PEM key"
            ) from error


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
