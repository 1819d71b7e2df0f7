"""Ports of a host: when two of them conflict, and which of them are held.

Everything that gives a host's port to somebody asks here: the scheduler for tasks, the allocator
for the mesh, the node for its own containers.
"""

from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import NamedTuple

import msgspec

from weft.model.addresses import Address, Port, PortKey, Protocol

ANY_IPV6 = IPv6Address(0)


class HostPort(NamedTuple):
    protocol: Protocol
    port: Port
    address: Address | None = None
    """The host's address; None: all of IPv4, `ANY_IPV6`: all of IPv6."""

    @property
    def key(self) -> PortKey:
        return self.protocol, self.port

    def meets(self, other: "HostPort") -> bool:
        """Whether only one of the two can be had: a port at all addresses of a family excludes the
        same port at one of them."""
        return self.key == other.key and _meet(self.address, other.address)


def _meet(one: Address | None, other: Address | None) -> bool:
    every = _every(one)
    return every == _every(other) and (one == other or every in (one, other))


def _every(address: Address | None) -> Address | None:
    """What stands for all addresses of the family."""
    return ANY_IPV6 if isinstance(address, IPv6Address) else None


class HostPorts(msgspec.Struct):
    """The ports that are held on one host. An image may expose thousands, and each is looked up."""

    _holders: dict[PortKey, dict[Address | None, int]] = msgspec.field(default_factory=dict)
    """Number of holders by address: one, unless something went wrong."""

    @classmethod
    def of(cls, held: Iterable[HostPort]) -> "HostPorts":
        ports = cls()
        for port in held:
            ports.count(port, 1)
        return ports

    def __bool__(self) -> bool:
        return bool(self._holders)

    def has(self, wanted: HostPort) -> bool:
        """Whether a held port meets this one."""
        others = self._holders.get(wanted.key)
        if others is None:
            return False
        every = _every(wanted.address)
        if wanted.address == every:
            return any(_every(other) == every for other in others)
        return every in others or wanted.address in others

    def count(self, port: HostPort, sign: int) -> None:
        """Adds a holder (`sign` 1) or takes one away (-1)."""
        holders = self._holders.setdefault(port.key, {})
        holders[port.address] = holders.get(port.address, 0) + sign
        if not holders[port.address]:
            del holders[port.address]
        if not holders:
            del self._holders[port.key]
