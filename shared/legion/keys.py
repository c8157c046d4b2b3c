"""Device keys: made, read, and shown to an authority.

The worker id is the hash of the public key. Keys are ECDSA P-256, so that a gRPC channel can be narrowed to TLS 1.3.
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from legion.errors import Unusable
from legion.ids import WorkerId, host_name, worker_id_of

PrivateKey = ec.EllipticCurvePrivateKey


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


def signing_request(key: PrivateKey) -> str:
    """A CSR (PKCS #10, PEM) for the key's own worker id; the authority ignores every other wish in a CSR."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_name(worker_id_of_key(key)))])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()
