"""Manager certificates in the swarm's state: those that may have to be refused before they expire.

The manager that issues a certificate, or sees an unknown one, writes it to the node's
`manager_certificates`. The commit after which the node is no longer to be a manager moves them to
the cluster's `revoked`.
"""

from collections.abc import Iterable

import msgspec

from weft.model.meta import SECOND, Nanoseconds

LAG = 24 * 3600 * SECOND
"""Largest clock difference between two hosts: an expired certificate is still refused for that
long."""


class ManagerCertificate(msgspec.Struct, frozen=True):
    """A certificate that says that its holder is a manager."""

    serial: str
    """Hexadecimal, without leading zeros."""
    expires: Nanoseconds


def unexpired(
    certificates: Iterable[ManagerCertificate], now: Nanoseconds
) -> tuple[ManagerCertificate, ...]:
    return tuple(each for each in certificates if each.expires + LAG > now)
