"""TLS contexts for sessions between nodes, and who is at the other end of one. TLS 1.3 only: both ends are ours.

OpenSSL reads a certificate and key from files only; the key goes through a file in memory (memfd) that nobody else can open.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from weft.cluster.base import Identity
from weft.cluster.identity import Credentials
from weft.errors import Forbidden
from weft.model.ids import ClusterId, NodeId
from weft.pki.authority import UNITS

MANAGER_NAME = UNITS["manager"]
"""The host name that clients ask for: only a manager's certificate has it."""


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """Asks for a client's certificate, takes none for an answer (joining), refuses one of another root."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
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


def unverified_context() -> ssl.SSLContext:
    """For fetching the root certificate only, which is then compared with the join token's digest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def identity(certificate: dict[str, Any] | None, cluster: ClusterId) -> Identity:
    """From `SSLSocket.getpeercert()`. Raises `Forbidden` if there is none or it is not of this cluster."""
    if not certificate:
        raise Forbidden("cannot open session: no client certificate")
    subject = {key: value for part in certificate["subject"] for key, value in part}
    roles = {unit: role for role, unit in UNITS.items()}
    role = roles.get(subject.get("organizationalUnitName", ""))
    if role is None or subject.get("organizationName") != cluster:
        raise Forbidden("cannot open session: the certificate is not of this cluster")
    return Identity(NodeId(subject["commonName"]), role, cluster)


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
