"""TLS contexts for sessions between nodes, and the identity of the other end. TLS 1.3 only: both
ends are ours.

OpenSSL reads a certificate and key from files only; the key goes through a file in memory (memfd)
that nobody else can open.
"""

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from weft.errors import Forbidden, InvalidArgument
from weft.model.ids import ClusterId
from weft.pki.certificate import UNITS, holder, issuer_id, load, serial_text
from weft.session.base import Identity
from weft.session.identity import Credentials, CredentialSource

MANAGER_NAME = UNITS["manager"]
"""The host name that clients verify: only a manager's certificate has it."""

IsRevoked = Callable[[str], bool]
"""Whether the certificate with a serial number, as in `model.certificate`, was revoked."""


class ServerCertified(Protocol):
    """A connection of a client."""

    def get_extra_info(self, name: str) -> Any: ...


def none_known(_: str) -> bool:
    """For clients that do not know which certificates were revoked."""
    return False


class Contexts:
    """Contexts of one kind for the newest credentials, made anew when the credentials change.
    Existing connections keep their context."""

    def __init__(
        self, credential_source: CredentialSource, make: Callable[[Credentials], ssl.SSLContext]
    ) -> None:
        self._credential_source = credential_source
        self._make = make
        self._for: Credentials | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        credentials = self._credential_source.credentials
        if self._context is None or self._for is not credentials:
            self._context, self._for = self._make(credentials), credentials
        return self._context


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """Asks for a client's certificate, accepts a client without one (joining), refuses a
    certificate of another root. No session is resumed: each certificate is verified anew, against
    the current root."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    context.load_verify_locations(cadata=credentials.root)
    _load(context, credentials)
    return context


def client_context(root: str, credentials: Credentials | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=root)
    if credentials is not None:
        _load(context, credentials)
    return context


def node_context(credentials: Credentials, is_revoked: IsRevoked = none_known) -> ssl.SSLContext:
    """For a node as client. If the server's certificate was revoked, the handshake fails before
    anything is sent."""
    context = client_context(credentials.root, credentials)
    context.sslobject_class = _refusing(is_revoked)
    return context


def node_contexts(
    credential_source: CredentialSource, is_revoked: IsRevoked = none_known
) -> Contexts:
    """`node_context` for the newest credentials."""
    return Contexts(credential_source, partial(node_context, is_revoked=is_revoked))


def _refusing(is_revoked: IsRevoked) -> type[ssl.SSLObject]:
    """Checks for revocation in place of OpenSSL's own lists, which must be signed by the root, and
    complete for every root."""

    class Refusing(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            shown = self.getpeercert(binary_form=True)
            if shown and is_revoked(serial := serial_text(load(shown).serial_number)):
                raise ssl.SSLCertVerificationError(
                    f"the manager's certificate {serial} was revoked"
                )

    return Refusing


def unverified_context() -> ssl.SSLContext:
    """Only for fetching the root certificate, which is then compared with the join token's
    digest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def identity(certificate: bytes | None, cluster: ClusterId) -> Identity:
    """The identity from a certificate (DER) that TLS has verified. Raises `Forbidden` if there is
    no certificate or it is not of this cluster."""
    if not certificate:
        raise Forbidden("cannot open session: no client certificate")
    try:
        who = holder(certificate)
    except InvalidArgument:
        who = None
    if who is None or who.cluster != cluster:
        raise Forbidden("cannot open session: the certificate is not of this cluster")
    return Identity(who.node, who.role, cluster, issuer_id(certificate), who.serial, who.expires)


def server_serial(connection: ServerCertified) -> str:
    """The serial number of the server's certificate, as TLS has verified it; empty if the
    connection has ended."""
    tunnel = connection.get_extra_info("ssl_object")
    shown = tunnel.getpeercert(binary_form=True) if tunnel is not None else None
    return serial_text(load(shown).serial_number) if shown else ""


def _load(context: ssl.SSLContext, credentials: Credentials) -> None:
    with _in_memory(credentials.certificate) as certificate, _in_memory(credentials.key) as key:
        context.load_cert_chain(certificate, key)


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    handle = os.memfd_create("weft-pem", os.MFD_CLOEXEC)
    try:
        os.write(handle, text.encode())
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
