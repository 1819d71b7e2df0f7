"""The swarm's certificate authority: a self-signed root, and one certificate for each node.

A node's certificate says who it is (CN: node id), of which swarm (O: cluster id) and what it may do (OU: `swarm-manager` or
`swarm-worker`); both ends of every session check all three. The OU is also an alternative name, so that an ordinary TLS client
that asks for the host `swarm-manager` accepts managers only. ECDSA on P-256, back-dated an hour for clocks that differ.
"""

from datetime import UTC, datetime, timedelta
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from weft.errors import InvalidArgument
from weft.model.cluster import RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import Role

ROOT_LIFETIME = timedelta(days=20 * 365)
BACKDATE = timedelta(hours=1)
UNITS: dict[Role, str] = {"manager": "swarm-manager", "worker": "swarm-worker"}


def root(key: ec.EllipticCurvePrivateKey, now: Nanoseconds, serial: int) -> RootCa:
    """A new root for `key`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
    certificate = (
        _builder(name, name, _moment(now), ROOT_LIFETIME, serial)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return RootCa(_pem(certificate), private_pem(key))


def request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request (PEM) for `key`. The authority decides on the names, so it has none."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def issue(
    root: RootCa,
    csr_pem: str,
    node: NodeId,
    role: Role,
    cluster: ClusterId,
    now: Nanoseconds,
    lifetime: Nanoseconds,
    serial: int,
) -> str:
    """A node's certificate (PEM) for the key in the request. Raises `InvalidArgument` if the request is not one."""
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        public_key = csr.public_key()
    except ValueError as error:
        raise InvalidArgument(f"cannot issue certificate: malformed request: {error}") from error
    if not csr.is_signature_valid or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise InvalidArgument("cannot issue certificate: the request is not signed by an elliptic curve key")
    authority = x509.load_pem_x509_certificate(root.certificate.encode())
    unit = UNITS[role]
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, node),
        ]
    )
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = (
        _builder(subject, authority.subject, _moment(now), timedelta(seconds=lifetime / SECOND), serial)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node), x509.DNSName(unit)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(_public(authority)), critical=False)
        .sign(_private(root.key), hashes.SHA256())
    )
    return _pem(certificate)


def subject_and_key(certificate_pem: str) -> tuple[bytes, bytes]:
    """(DER of the subject, DER of the public key): what `docker info` shows of the root as `TLSInfo`."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    public = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate.subject.public_bytes(), public


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()  # fmt: skip


def _builder(
    subject: x509.Name, issuer: x509.Name, now: datetime, lifetime: timedelta, serial: int
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _moment(now: Nanoseconds) -> datetime:
    return datetime.fromtimestamp(now // SECOND, UTC)


def _private(pem: str) -> ec.EllipticCurvePrivateKey:
    return cast(ec.EllipticCurvePrivateKey, serialization.load_pem_private_key(pem.encode(), None))


def _public(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    return cast(ec.EllipticCurvePublicKey, certificate.public_key())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
