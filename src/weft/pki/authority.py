"""The swarm's certificate authority: a self-signed root, and one certificate for each node.

A node's certificate names the node (CN: node id), its swarm (O: cluster id) and its role (OU:
`swarm-manager` or `swarm-worker`). Both ends of every session check all three. The OU is also an
alternative name, so that an ordinary TLS client that asks for the host `swarm-manager` accepts only
managers. A manager's certificate is also valid for its address, which etcd members check. Weft's
keys are ECDSA on P-256; certificates are back-dated by a day for clocks that differ.

A new root is cross-signed by the previous root. So a node that trusts the old root can verify
certificates that the new one signed. Nodes may change over one by one, and no node has to trust two
roots.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from typing import cast

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from weft.errors import InvalidArgument
from weft.model.cluster import Cluster, RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import Role
from weft.pki.certificate import BACKDATE, UNITS, key_identifier, load, moment

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""Weft makes keys of the first kind; a root that the operator brings may have the second."""

ROOT_LIFETIME = timedelta(days=20 * 365)
SHORTEST_ROOT = timedelta(days=365)
"""Shortest remaining lifetime of a root that the operator brings; Docker Swarm's limit."""
SHORTEST_RSA = 2048
KEY_BYTES = 48
"""Random bytes for a key: enough to make the bias of reduction modulo the order of P-256 negligible
(FIPS 186-5, A.2.1)."""
SERIAL_BYTES = 16
"""Length of a certificate's serial number; X.509 allows 20 (RFC 5280 section 4.1.2.2)."""
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def make_key(entropy: Callable[[int], bytes]) -> ec.EllipticCurvePrivateKey:
    """A key on P-256 from random bytes."""
    number = int.from_bytes(entropy(KEY_BYTES), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1())


def make_serial(entropy: Callable[[int], bytes]) -> int:
    return int.from_bytes(entropy(SERIAL_BYTES), "big") | 1


def root(key: ec.EllipticCurvePrivateKey, now: Nanoseconds, serial: int) -> RootCa:
    """A new root for `key`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
    certificate = (
        _builder(name, name, moment(now), ROOT_LIFETIME, serial)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return RootCa(_pem(certificate), private_pem(key))


def request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request (PEM) for `key`. It contains no names, since the authority decides on
    them."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


class NodeCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a node's certificate, besides its key and its issuer."""

    node: NodeId
    role: Role
    cluster: ClusterId
    serial: int
    begin: Nanoseconds
    lifetime: Nanoseconds
    addresses: tuple[IPv4Address, ...] = ()
    """The certificate is valid for these as well as for the node's names."""


def issue(root: RootCa, csr_pem: str, content: NodeCertificate) -> str:
    """A node's certificate (PEM) for the key in the request. Raises `InvalidArgument` for a
    malformed request."""
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        public_key = csr.public_key()
    except ValueError as error:
        raise InvalidArgument(f"cannot issue certificate: malformed request: {error}") from error
    if not csr.is_signature_valid or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise InvalidArgument(
            "cannot issue certificate: the request is not signed by an elliptic curve key"
        )
    authority = load(root.certificate)
    unit = UNITS[content.role]
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, content.cluster),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, content.node),
        ]
    )
    addresses = map(x509.IPAddress, content.addresses)
    names = [x509.DNSName(content.node), x509.DNSName(unit), *addresses]
    lifetime = timedelta(seconds=content.lifetime / SECOND)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = (
        _builder(subject, authority.subject, moment(content.begin), lifetime, content.serial)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_signed_by(authority), critical=False)
        .sign(_private(root.key), hashes.SHA256())
    )
    return _pem(certificate)


def cross_sign(old: RootCa, new: RootCa, now: Nanoseconds, serial: int) -> str:
    """A certificate (PEM) with the new root's name and key, signed by the old root, valid until the
    first of them expires."""
    signer, subject = load(old.certificate), load(new.certificate)
    end = min(signer.not_valid_after_utc, subject.not_valid_after_utc)
    certificate = (
        _builder(subject.subject, signer.subject, moment(now), end - moment(now), serial)
        .public_key(subject.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_identifier(subject)), critical=False)
        .add_extension(_signed_by(signer), critical=False)
        .sign(_private(old.key), hashes.SHA256())
    )
    return _pem(certificate)


def brought(certificate: str, key: str, now: Nanoseconds) -> RootCa:
    """A root that the operator brings. Raises `InvalidArgument` if it cannot be the root of a
    swarm."""
    try:
        loaded = x509.load_pem_x509_certificates(certificate.encode())
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"cannot rotate CA: malformed certificate or key: {error}") from error
    if len(loaded) != 1:
        raise InvalidArgument("the desired CA certificate cannot contain multiple certificates")
    (own,) = loaded
    if not isinstance(private, SigningKey) or (
        isinstance(private, rsa.RSAPrivateKey) and private.key_size < SHORTEST_RSA
    ):
        raise InvalidArgument(
            f"cannot rotate CA: the key is neither on an elliptic curve nor RSA of {SHORTEST_RSA}"
            " bits or more"
        )
    if private.public_key() != own.public_key():
        raise InvalidArgument(
            "cannot rotate CA: the certificate and the key do not belong together"
        )
    if own.not_valid_after_utc - moment(now) < SHORTEST_ROOT:
        raise InvalidArgument("CA certificate expires too soon")
    try:
        constraints = own.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise InvalidArgument(
            "cannot rotate CA: the certificate is not one of an authority"
        ) from None
    if not constraints.ca or constraints.path_length == 0 or own.not_valid_before_utc > moment(now):
        raise InvalidArgument("cannot rotate CA: the certificate may not sign others now")
    try:
        own.verify_directly_issued_by(own)
    except Exception as error:
        raise InvalidArgument("cannot rotate CA: the certificate is not self-signed") from error
    return RootCa(_pem(own), private_pem(private))


def signer(cluster: Cluster) -> tuple[RootCa, str]:
    """The root that signs now, and the certificates (PEM) to append to a new certificate, so that
    nodes that trust an earlier root can verify it."""
    if cluster.rotation is None:
        return cluster.root_ca, cluster.cross_signed
    return cluster.rotation.root_ca, cluster.rotation.cross_signed + cluster.cross_signed


def private_pem(key: SigningKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _builder(
    subject: x509.Name, issuer: x509.Name, now: datetime, lifetime: timedelta, serial: int
) -> x509.CertificateBuilder:
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
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(pem: str) -> SigningKey:
    return cast(SigningKey, serialization.load_pem_private_key(pem.encode(), None))


def _signed_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(key_identifier(authority), None, None)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
