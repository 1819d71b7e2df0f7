"""Encodes operations as netlink requests. Pure but for the look-ups that the caller passes in:
indexes of devices, descriptors of namespaces.

`ALREADY_SO` lists which errors of the kernel mean that an operation's goal was reached already.
"""

import errno
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from weft.linux.netlink import address, link, neighbour, route, rule
from weft.linux.netlink.message import Request
from weft.network.kernel_state import Link, Veth, Vxlan
from weft.network.operations import (
    AddAddress,
    AddForwarding,
    AddLink,
    AddNeighbour,
    AddRoute,
    AddRule,
    RemoveAddress,
    RemoveForwarding,
    RemoveLink,
    RemoveNeighbour,
    RemoveRoute,
    RemoveRule,
    SetLink,
)


class Lookup(NamedTuple):
    device: Callable[[str], int]
    """Index of a device in the operation's namespace. Raises OSError(ENODEV)."""
    descriptor: Callable[[str], int]
    """Descriptor of a namespace. Raises OperationFailed."""


def add_link(operation: AddLink, lookup: Lookup) -> list[Request]:
    kind = operation.link.kind
    if isinstance(kind, Veth):
        if operation.peer is None or kind.peer_namespace is None:
            raise OSError(errno.EINVAL, "a veth needs its other end")
        return [
            link.add_veth(operation.link, operation.peer, lookup.descriptor(kind.peer_namespace))
        ]
    if isinstance(kind, Vxlan):
        return [link.add_vxlan(operation.link, kind, lookup.descriptor(operation.namespace))]
    return _add_bridge(operation.link)


def _add_bridge(bridge: Link) -> list[Request]:
    """A bridge's MTU follows that of its ports until somebody changes it. An MTU that is given at
    creation, or set to the same value again, does not count (`BROPT_MTU_SET_BY_USER` in the
    kernel's br_device.c). So the bridge is made with another MTU, which is then changed."""
    return [
        link.add_bridge(msgspec.structs.replace(bridge, mtu=bridge.mtu - 1)),
        link.set_link(bridge.name, mtu=bridge.mtu),
    ]


def set_link(operation: SetLink, lookup: Lookup) -> list[Request]:
    """Settings of a bridge port are sent after the link became a port, and before it is up."""
    o = operation
    master = None if o.master is None else lookup.device(o.master) if o.master else 0
    if o.port is None:
        return [link.set_link(o.name, o.mtu, o.mac, master, o.up)]
    requests = [link.set_link(o.name, o.mtu, o.mac, master), link.set_port(o.name, o.port)]
    return requests if o.up is None else [*requests, link.set_link(o.name, up=o.up)]


ENCODERS: Mapping[type, Callable[[Any, Lookup], list[Request]]] = {
    AddLink: add_link,
    SetLink: set_link,
    RemoveLink: lambda o, _: [link.remove_link(o.name)],
    AddAddress: lambda o, at: [address.add_address(at.device(o.device), o.address)],
    RemoveAddress: lambda o, at: [address.remove_address(at.device(o.device), o.address)],
    AddNeighbour: lambda o, at: [
        neighbour.add_neighbour(at.device(o.neighbour.device), o.neighbour.address, o.neighbour.mac)
    ],
    RemoveNeighbour: lambda o, at: [
        neighbour.remove_neighbour(
            at.device(o.neighbour.device), o.neighbour.address, o.neighbour.mac
        )
    ],
    AddForwarding: lambda o, at: [
        neighbour.add_forwarding(at.device(o.entry.device), o.entry.mac, o.entry.vtep)
    ],
    RemoveForwarding: lambda o, at: [
        neighbour.remove_forwarding(at.device(o.entry.device), o.entry.mac, o.entry.vtep)
    ],
    AddRoute: lambda o, at: [route.add_route(at.device(o.route.device), o.route)],
    RemoveRoute: lambda o, at: [route.remove_route(at.device(o.route.device), o.route)],
    AddRule: lambda o, _: [rule.add_rule(o.rule)],
    RemoveRule: lambda o, _: [rule.remove_rule(o.rule)],
}

ALREADY_SO: Mapping[type, frozenset[int]] = {
    RemoveLink: frozenset((errno.ENODEV,)),
    RemoveAddress: frozenset((errno.EADDRNOTAVAIL, errno.ENODEV)),
    RemoveNeighbour: frozenset((errno.ENOENT, errno.ENODEV)),
    RemoveForwarding: frozenset((errno.ENOENT, errno.ENODEV)),
    RemoveRoute: frozenset((errno.ESRCH, errno.ENODEV)),
    RemoveRule: frozenset((errno.ENOENT,)),
    AddRule: frozenset((errno.EEXIST,)),
}
