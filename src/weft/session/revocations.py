"""Managers' certificates that this node refuses, because managers have said that they were revoked.

A certificate leaves the list when it has expired, and never because a manager does not name it: so
a manager whose own certificate was revoked cannot take it off. See decision 26."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from weft.errors import OperationFailed, Unavailable, cause_of
from weft.model.certificate import ManagerCertificate, unexpired
from weft.model.meta import Nanoseconds
from weft.session import tls
from weft.session.client import FAILURES, decoded, post
from weft.session.deadlines import USUAL
from weft.session.identity import CredentialSource
from weft.session.messages import Revoked
from weft.system.value_file import ValueFile

log = logging.getLogger(__name__)

FILE = "revoked-managers.msgpack"
MOST = 2000
"""Certificates; about 60 bytes each. When there are more, those that the last manager named stay
first, so that a hostile manager cannot fill the list for good."""


class KeptRevocations(msgspec.Struct, frozen=True):
    """The file's content."""

    certificates: tuple[ManagerCertificate, ...] = ()


class Revocations:
    def __init__(self, directory: Path, clock: Callable[[], Nanoseconds]) -> None:
        """`directory`: of the node's membership."""
        self._file = ValueFile(directory / FILE, KeptRevocations, durable=True)
        self._clock = clock
        self._certificates = (self._file.read() or KeptRevocations()).certificates
        self._serials = frozenset(each.serial for each in self._certificates)
        self._is_kept = True
        """Whether the disk has the present list."""
        self._grown = asyncio.Event()
        """Set, and replaced, whenever the list has changed."""

    def is_revoked(self, serial: str) -> bool:
        return serial in self._serials

    def learn(self, certificates: Iterable[ManagerCertificate]) -> None:
        """Refuses these as well from now on, even if the disk cannot be written."""
        named = {each.serial: each for each in (*certificates, *self._certificates)}
        newest = unexpired(named.values(), self._clock())[:MOST]
        serials = frozenset(each.serial for each in newest)
        if serials == self._serials and self._is_kept:
            return
        if serials != self._serials:
            log.info("revocations.learned certificates=%d", len(serials))
        self._certificates, self._serials = newest, serials
        self._keep()
        self._grown.set()
        self._grown = asyncio.Event()

    async def revoked(self, serial: str) -> None:
        """Waits until the certificate is known to be revoked."""
        while not self.is_revoked(serial):
            await self._grown.wait()

    def _keep(self) -> None:
        try:
            self._file.write(KeptRevocations(self._certificates))
            self._is_kept = True
        except OperationFailed as cause:
            self._is_kept = False
            log.error("revocations.not_kept cause=%s", cause)


class RevocationClient:
    """Asks a manager which certificates were revoked."""

    def __init__(self, credential_source: CredentialSource, is_revoked: tls.IsRevoked) -> None:
        self._contexts = tls.node_contexts(credential_source, is_revoked)

    async def __call__(self, manager: str) -> tuple[ManagerCertificate, ...]:
        """Raises `Unavailable` if no manager answers at `host:port`, `Forbidden` if this node is
        not part of its swarm."""
        try:
            async with asyncio.timeout(USUAL.handshake):
                answer = await post(manager, "/v1/revoked", self._contexts.current(), b"")
        except FAILURES as error:
            raise Unavailable(f"cannot ask manager {manager}: {cause_of(error)}") from error
        revoked: Revoked = decoded(manager, answer, Revoked)
        return revoked.certificates
