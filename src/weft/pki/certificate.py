"""Reads and verifies certificates: PEM, or DER where TLS provides that. The time is an argument.

There are two digests of a root, because a root may be made anew for the same key. `fingerprint`
covers the whole certificate: nodes trust a root by its fingerprint. `signer_id` covers only name
and key, since a certificate says no more about its signer (`issuer_id`).
"""

import hashlib
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from weft.errors import InvalidArgument
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import Role

UNITS: dict[Role, str] = {"manager": "swarm-manager", "worker": "swarm-worker"}
BACKDATE = timedelta(hours=24)
"""How long before its issue a certificate becomes valid, for clocks that differ
(`model.certificate.LAG`)."""
EARLIER_BACKDATE = timedelta(hours=1)
"""The same in certificates that earlier versions have issued."""
LONGEST_CHAIN = 8


class Holder(msgspec.Struct, frozen=True):
    """The holder of a node's certificate, and the certificate's serial and end."""

    node: NodeId
    role: Role
    cluster: ClusterId
    serial: str
    """The certificate's serial number, in hexadecimal."""
    expires: Nanoseconds


def fingerprint(root: str) -> str:
    """SHA-256 of the certificate (PEM), in hexadecimal."""
    return load(root).fingerprint(hashes.SHA256()).hex()


def signer_id(root: str) -> str:
    """Digest of the root's (PEM) name and key."""
    certificate = load(root)
    return _digest(certificate.subject, key_identifier(certificate))


def issuer_id(certificate: str | bytes) -> str:
    """The `signer_id` of the certificate's signer; empty if the certificate does not name it."""
    loaded = load(certificate)
    try:
        identifier = loaded.extensions.get_extension_for_class(
            x509.AuthorityKeyIdentifier
        ).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    return _digest(loaded.issuer, identifier) if identifier else ""


def key_identifier(certificate: x509.Certificate) -> bytes:
    """The certificate's, or else the identifier of RFC 5280 section 4.2.1.2 (1)."""
    try:
        return certificate.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def holder(certificate: str | bytes) -> Holder:
    """The holder. Raises `InvalidArgument` if the certificate is not a node's."""
    loaded = load(certificate)
    names = {attribute.oid: str(attribute.value) for attribute in loaded.subject}
    unit = names.get(NameOID.ORGANIZATIONAL_UNIT_NAME)
    role = next((role for role, name in UNITS.items() if name == unit), None)
    node, cluster = names.get(NameOID.COMMON_NAME), names.get(NameOID.ORGANIZATION_NAME)
    if role is None or not node or not cluster:
        raise InvalidArgument(f"cannot read certificate: {unit!r} is no role of a node")
    expires = round(loaded.not_valid_after_utc.timestamp()) * SECOND
    return Holder(
        NodeId(node), role, ClusterId(cluster), serial_text(loaded.serial_number), expires
    )


def serial_text(serial: int) -> str:
    """The serial number in the form that the swarm's state uses."""
    return f"{serial:x}"


def subject_and_key(certificate: str) -> tuple[bytes, bytes]:
    """(DER of the subject, DER of the public key) of the root, which `docker info` shows as
    `TLSInfo`."""
    loaded = load(certificate)
    public = loaded.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return loaded.subject.public_bytes(), public


def public_key_digest(request: str) -> str:
    """Digest of the key in a certificate request (PEM). Raises `InvalidArgument` for a malformed
    request."""
    try:
        key = x509.load_pem_x509_csr(request.encode()).public_key()
    except ValueError as error:
        raise InvalidArgument(f"cannot issue certificate: malformed request: {error}") from error
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def has_key(certificate: str, key: str) -> bool:
    """Whether the certificate (PEM; the first of a chain) is for this private key (PEM)."""
    private = serialization.load_pem_private_key(key.encode(), None)
    return load(certificate).public_key() == private.public_key()


def renewal_due(certificate: str, fraction: float) -> Nanoseconds:
    """When `fraction` of the lifetime since the issue is over. The caller draws `fraction` from 0.5
    to 0.8 as in Docker Swarm, so that nodes started together do not ask for new certificates
    together."""
    loaded = load(certificate)
    issued = loaded.not_valid_before_utc + BACKDATE
    if issued >= loaded.not_valid_after_utc:
        issued = loaded.not_valid_before_utc + EARLIER_BACKDATE
    due = issued + (loaded.not_valid_after_utc - issued) * fraction
    return round(due.timestamp() * SECOND)


def ends(certificate: str) -> Nanoseconds:
    """When the first certificate of the PEM text is no longer valid. Raises `InvalidArgument`."""
    return round(load(certificate).not_valid_after_utc.timestamp()) * SECOND


def verify(chain: str, root: str, now: Nanoseconds) -> None:
    """Follows the chain (PEM: the node's certificate, then those that lead to the root) to the root
    (PEM). Raises `InvalidArgument` if it does not lead there, or if a certificate on the way is not
    valid at this time."""
    anchor = load(root)
    certificate, *others = _load_all(chain)
    for _ in range(LONGEST_CHAIN):
        _check_time(certificate, now)
        if _issued(anchor, certificate):
            _check_time(anchor, now)
            return
        above = next(
            (other for other in others if _is_authority(other) and _issued(other, certificate)),
            None,
        )
        if above is None or above == certificate:
            break
        certificate = above
    raise InvalidArgument("cannot trust certificate: the root certificate did not sign it")


def load(certificate: str | bytes) -> x509.Certificate:
    """The certificate from PEM text or DER bytes. Raises `InvalidArgument`."""
    try:
        if isinstance(certificate, bytes):
            return x509.load_der_x509_certificate(certificate)
        return x509.load_pem_x509_certificate(certificate.encode())
    except ValueError as error:
        raise InvalidArgument(f"cannot read certificate: {error}") from error


def moment(now: Nanoseconds) -> datetime:
    return datetime.fromtimestamp(now // SECOND, UTC)


def _load_all(chain: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(chain.encode())
    except ValueError as error:
        raise InvalidArgument(f"cannot read certificate: {error}") from error


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_time(certificate: x509.Certificate, now: Nanoseconds) -> None:
    if not certificate.not_valid_before_utc <= moment(now) <= certificate.not_valid_after_utc:
        raise InvalidArgument(
            "cannot trust certificate: it is good from"
            f" {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to"
            f" {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )


def _digest(name: x509.Name, key: bytes) -> str:
    return hashlib.sha256(name.public_bytes() + key).hexdigest()
