"""The certificates that an etcd member refuses, as a revocation list (CRL, RFC 5280 section 5).

etcd 3.4 reads the list at each handshake and only compares serial numbers. It checks neither the
list's signature nor its validity period. So each node signs its own list, which only root can
write.
"""

from collections.abc import Iterable
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from weft.errors import InvalidArgument
from weft.model.meta import Nanoseconds
from weft.pki.certificate import load, moment, serial_text

LIFETIME = timedelta(days=365)


def revocation_list(serials: Iterable[str], certificate: str, key: str, now: Nanoseconds) -> bytes:
    """The list (PEM), signed with the node's key (PEM) in the name of its certificate (PEM).
    Serials as in `model.certificate`. Raises `InvalidArgument` if the key or the certificate is
    damaged."""
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"cannot read key: {error}") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("cannot read key: it is not one on an elliptic curve")
    begin = moment(now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(load(certificate).subject)
        .last_update(begin)
        .next_update(begin + LIFETIME)
    )
    for serial in sorted(set(serials)):
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(serial, 16))
            .revocation_date(begin)
            .build()
        )
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def revoked_serials(crl: bytes) -> frozenset[str]:
    """Serials in a revocation list (PEM). Raises `InvalidArgument` for a malformed list."""
    try:
        return frozenset(serial_text(entry.serial_number) for entry in x509.load_pem_x509_crl(crl))
    except ValueError as error:
        raise InvalidArgument(f"cannot read revocation list: {error}") from error
