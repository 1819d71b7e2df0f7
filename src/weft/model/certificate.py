"""Manager certificates in the swarm's state: those that may have to be refused before they expire.

The manager that issues a certificate, or sees an unknown one, writes it to the node's
`manager_certificates`. The commit after which the node is no longer to be a manager moves them to
the cluster's `revoked`.
"""

import msgspec

from weft.model.meta import Nanoseconds


class ManagerCertificate(msgspec.Struct, frozen=True):
    """A certificate that says that its holder is a manager."""

    serial: str
    """Hexadecimal, without leading zeros."""
    expires: Nanoseconds
