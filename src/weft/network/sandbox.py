"""A container's interfaces, addresses, routes and resolver.

    previous hop   overlay.py: a frame leaves br<i> by veth<n>
    this hop       the container's eth<k>: ingress first, then its overlays in the order of the
                   service, last docker_gwbridge
    next hop       the process; its replies go by reply.py, its own requests by loadbalancer.py or
                   gateway.py

The default route leads to docker_gwbridge. A container whose networks are all internal has neither
that route nor that interface. DNAT leads from the resolver's address, 127.0.0.11:53, to the port on
which the agent listens inside the sandbox.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address

import msgspec

from weft.model.addresses import mac_for
from weft.model.assignment import NetworkDefinition, NetworkView
from weft.model.ids import NetworkId
from weft.model.sandbox import GATEWAY_BRIDGE, RESOLVER_ADDRESS, RESOLVER_PORT, NodeFacts, Sandbox
from weft.model.task import Attachment
from weft.model.workload import Workload
from weft.network import gateway, nft, reply
from weft.network.fragments import cable, table
from weft.network.kernel_state import Namespace, Route, Table
from weft.network.loadbalancer import choice
from weft.network.overlay import mtu_of, segment_of
from weft.network.ownership import overlay_namespace
from weft.network.reply import Interface, Legs

SYSCTLS = {"net.ipv6.conf.default.disable_ipv6": "1"}
"""As in Docker Swarm; a service may ask for another value. The runtime sets the sysctls that let
programs use low ports and ping, and those that the service asks for."""


class Outlook(msgspec.Struct, frozen=True):
    """A network as a container sees it, without its services."""

    definition: NetworkDefinition
    legs: Legs | None
    """The legs on the ingress network; None for any other network."""


def needs_gateway(workload: Workload, networks: Mapping[NetworkId, NetworkView]) -> bool:
    """True unless all networks of the workload are internal, or another one leads outside."""
    if workload.has_outlet:
        return False
    known = [networks[a.network].definition for a in workload.attachments if a.network in networks]
    return not known or not all(definition.internal for definition in known)


def hides_gateway(
    workload: Workload, networks: Mapping[NetworkId, NetworkView], facts: NodeFacts
) -> str | None:
    """Why the container cannot be connected to its networks here, or None. If a network's subnet
    overlaps docker_gwbridge's, the container would take its own gateway address for another
    container's, and answer itself."""
    if not needs_gateway(workload, networks):
        return None
    gateway = facts.gateway.network
    known = [networks[a.network].definition for a in workload.attachments if a.network in networks]
    for definition in known:
        for subnet in (segment.subnet for segment in definition.segments):
            if subnet.overlaps(gateway):
                overlap = f"its subnet {subnet} overlaps {GATEWAY_BRIDGE} of this host ({gateway})"
                return f"cannot connect to network {definition.name}: {overlap}"
    return None


def connect(
    sandbox: Sandbox,
    workload: Workload,
    outlooks: Mapping[NetworkId, Outlook],
    facts: NodeFacts,
    has_gateway: bool,
) -> Iterator[Namespace]:
    """All of one container's network, without the services, which `fragments.serving` adds. The
    container calls the services of its networks, except ingress, by virtual address. An attachment
    to a network that the node is not told of is left out."""
    wanted = workload.spec.sysctls
    yield Namespace(
        name=sandbox.key, sysctls={key: wanted.get(key, value) for key, value in SYSCTLS.items()}
    )
    yield Namespace(name=sandbox.key, tables=resolver())
    interfaces: list[tuple[Interface, Outlook]] = []
    for place, attachment in enumerate(workload.attachments):
        outlook = outlooks.get(attachment.network)
        if outlook is None or attachment.network not in sandbox.ports:
            continue
        name = sandbox.interface(attachment.network, place)
        interfaces.append((Interface(name, attachment.address), outlook))
        yield from _attach(sandbox, name, attachment, outlook.definition, facts)
    known = (outlooks[a.network].definition for a in workload.attachments if a.network in outlooks)
    if not all(definition.ingress for definition in known):
        yield choice(sandbox.key, sandbox.gateway.ip)
    if has_gateway:
        last = len(workload.attachments)
        number = last if sandbox.outlet is None else sandbox.outlet
        outlet = Interface(f"eth{number}", sandbox.gateway)
        yield from gateway.port(facts, sandbox.id, sandbox.key, outlet.name, outlet.address)
        yield from _mesh(sandbox, workload, interfaces, (outlet, facts.gateway.ip))


def _attach(
    sandbox: Sandbox,
    name: str,
    attachment: Attachment,
    definition: NetworkDefinition,
    facts: NodeFacts,
) -> Iterator[Namespace]:
    own = segment_of(definition, attachment.address.ip)
    if own is None:
        return
    port = (overlay_namespace(definition.id), f"veth{sandbox.ports[definition.id]}", f"br{own}")
    address = attachment.address
    yield from cable(
        port, (sandbox.key, name), mtu_of(definition, facts), mac_for(address.ip), address
    )
    hop = definition.segments[own].gateway
    siblings = (segment.subnet for i, segment in enumerate(definition.segments) if i != own)
    routes = frozenset(Route(destination=subnet, via=hop, device=name) for subnet in siblings)
    yield Namespace(name=sandbox.key, routes=routes)


def _mesh(
    sandbox: Sandbox,
    workload: Workload,
    interfaces: Sequence[tuple[Interface, Outlook]],
    outlet: tuple[Interface, IPv4Address],
) -> Iterator[Namespace]:
    entry, legs = next(
        ((i, outlook.legs) for i, outlook in interfaces if outlook.legs), (None, None)
    )
    if entry is not None and legs is not None:
        others = [i for i, outlook in interfaces if not outlook.legs]
        yield from reply.answers(sandbox.key, workload, entry, others, outlet, legs)


def resolver() -> dict[tuple[str, str], Table]:
    """Leads questions for names to this node's name server in the sandbox."""
    target = f"dnat ip to {RESOLVER_ADDRESS}:{RESOLVER_PORT}"
    rules = (
        f"ip daddr {RESOLVER_ADDRESS} {protocol} dport 53 {target}" for protocol in ("udp", "tcp")
    )
    return table(nft.base_chain("resolver", "nat", "output", nft.DSTNAT, *rules))
