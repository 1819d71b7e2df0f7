"""What a sandbox needs of the kernel, and so which failed operations are its own trouble."""

import re
from collections.abc import Mapping

import msgspec

from weft.model.bridge_network import BridgeNetwork
from weft.model.ids import NetworkId
from weft.model.local_sandbox import LocalSandbox
from weft.model.sandbox import GATEWAY_BRIDGE, Sandbox
from weft.network.attached import sandbox_of
from weft.network.kernel_state import HOST, Veth
from weft.network.operations import (
    AddForwarding,
    AddLink,
    ChangeTable,
    Operation,
    RemoveAddress,
    RemoveForwarding,
    RemoveLink,
    RemoveNamespace,
    RemoveNeighbour,
    RemoveRoute,
    RemoveRule,
    RemoveTable,
    ReplaceTable,
    SetLink,
)
from weft.network.ownership import (
    balancer_namespace,
    gateway_port,
    local_port,
    overlay_namespace,
)

SANDBOX_PORT = re.compile(r"veth[1-9][0-9]*")
"""An overlay's bridge port that leads to a sandbox."""
Place = tuple[str, str]
"""Namespace and interface."""
REMOVALS = (
    RemoveAddress,
    RemoveForwarding,
    RemoveLink,
    RemoveNamespace,
    RemoveNeighbour,
    RemoveRoute,
    RemoveRule,
    RemoveTable,
)


class Footprint(msgspec.Struct, frozen=True):
    namespace: str
    """The sandbox's own."""
    ports: frozenset[Place] = frozenset()
    """The other ends of its interfaces."""
    shared: frozenset[str] = frozenset()
    """Namespaces that other sandboxes need as well."""
    bridges: frozenset[str] = frozenset()
    """Bridges of the host."""

    def needs(self, place: Place) -> bool:
        """Whether the sandbox needs this link. The ports of other sandboxes on a shared bridge do
        not concern it."""
        space, name = place
        if space == self.namespace or place in self.ports:
            return True
        if space == HOST:
            return name in self.bridges
        return space in self.shared and not SANDBOX_PORT.fullmatch(name)


def of_sandbox(sandbox: Sandbox) -> Footprint:
    ports = {
        (overlay_namespace(network), f"veth{number}") for network, number in sandbox.ports.items()
    }
    shared = (*map(overlay_namespace, sandbox.ports), *map(balancer_namespace, sandbox.ports))
    return Footprint(
        sandbox.key,
        frozenset(ports | {(HOST, gateway_port(sandbox.id))}),
        frozenset(shared),
        frozenset({GATEWAY_BRIDGE}),
    )


def of_local(sandbox: LocalSandbox, networks: Mapping[NetworkId, BridgeNetwork]) -> Footprint:
    overlays = _of_overlays(sandbox)
    ports = {(HOST, local_port(sandbox.id, e.number)) for e in sandbox.endpoints}
    bridges = {networks[e.network].device for e in sandbox.endpoints if e.network in networks}
    return Footprint(
        sandbox.key, overlays.ports | ports, overlays.shared, overlays.bridges | bridges
    )


def _of_overlays(sandbox: LocalSandbox) -> Footprint:
    """The part on networks of the swarm, if there is one."""
    there = sandbox_of(sandbox)
    return of_sandbox(there) if there is not None else Footprint(sandbox.key)


def of_bridge(network: BridgeNetwork) -> Footprint:
    """The footprint of a network without containers."""
    return Footprint("", frozenset({(HOST, network.device)}))


class Failure(msgspec.Struct, frozen=True):
    operation: Operation | None
    """None: planning or reading failed."""
    cause: str

    @property
    def is_of_removal(self) -> bool:
        """Whether something that is not wanted may still be there."""
        return self.operation is None or isinstance(self.operation, REMOVALS)

    def concerns(self, footprint: Footprint) -> bool:
        """Whether the sandbox needs this operation."""
        if self.operation is None or _is_hosts_table(self.operation):
            return True
        places = links_of(self.operation)
        if places:
            return any(map(footprint.needs, places))
        return self.operation.namespace in (footprint.namespace, *footprint.shared)

    def keeps(self, footprint: Footprint) -> bool:
        """Whether a part of the sandbox, which is to go, may still be there."""
        match self.operation:
            case None:
                return True
            case RemoveNamespace(namespace=name):
                return name == footprint.namespace
            case RemoveLink(namespace=space, name=name):
                return (space, name) in footprint.ports
        return False


def _is_hosts_table(operation: Operation) -> bool:
    """Whether the operation sets the host's rules. Without them a container could reach what
    listens on the host's loopback, and forge the addresses of others: none may start then."""
    return isinstance(operation, ReplaceTable | ChangeTable) and operation.namespace == HOST


def links_of(operation: Operation) -> list[Place]:
    """The links that the operation makes, changes or removes, or that a new forwarding entry points
    to."""
    match operation:
        case AddLink(namespace=space, link=link):
            return [(space, link.name), *_far_end(link.kind)]
        case SetLink(namespace=space, name=name) | RemoveLink(namespace=space, name=name):
            return [(space, name)]
        case AddForwarding(namespace=space, entry=entry) if entry.vtep is None:
            return [(space, entry.device)]
    return []


def _far_end(kind: object) -> list[Place]:
    match kind:
        case Veth(peer_namespace=str(space), peer=str(name)):
            return [(space, name)]
    return []
