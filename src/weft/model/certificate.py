"""Certificates as the swarm's state knows them: what has to be refused before it expires.

A node's `manager_certificates` are written by the manager that issues one, or sees one that it does
not know; they go over to the cluster's `revoked` with the commit by which the node is to be a
manager no more.
"""

import msgspec

from weft.model.meta import Nanoseconds


class ManagerCertificate(msgspec.Struct, frozen=True):
    """One that says that its holder is a manager."""

    serial: str
    """Hexadecimal, without leading zeros."""
    expires: Nanoseconds
