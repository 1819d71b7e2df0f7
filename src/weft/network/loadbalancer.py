"""A service's virtual address: each container chooses a task itself, before the packet leaves it.

    previous hop   a process in a container sends to the virtual address
    this hop       the container's own output hook: DNAT to a serving task's address, ports
                   unchanged
    next hop       overlay.py: an ordinary packet from container to container, with the caller's
                   address

There is no balancer on the path, so nothing is masqueraded and no hop is added. All protocols are
translated: ping works too. The network's load-balancer namespace (`lb_<id9>`, `ingress_sbox` for
the ingress network) holds the virtual addresses on its eth0: people look for them there, and ARP
for them is answered there. Except on ingress, that namespace has the same table. A virtual address
is local in that namespace, so its own packets would have the virtual address as their source, and
the reply would get lost on another host. SNAT gives these packets the balancer's own address.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface

from weft.model.assignment import EndpointRecord, NetworkDefinition
from weft.model.sandbox import NodeFacts
from weft.network import nft
from weft.network.fragments import cable, table
from weft.network.kernel_state import Namespace
from weft.network.overlay import QUIET, mtu_of, segment_of
from weft.network.ownership import INGRESS_SANDBOX, balancer_namespace, overlay_namespace
from weft.network.render.services import VIRTUAL_SETS, virtual_choice
from weft.network.service_table import Services

BALANCER_PORT = "veth0"
"""The bridge's port towards the network's load-balancer namespace."""


def balancer(
    definition: NetworkDefinition,
    own: EndpointRecord,
    addresses: Iterable[IPv4Address],
    facts: NodeFacts,
) -> Iterator[Namespace]:
    """The network's load-balancer namespace on this host. `own`: the address that the manager gave
    to it; `addresses`: the virtual addresses of the services."""
    segment = segment_of(definition, own.address.ip)
    if segment is None:
        return
    space = INGRESS_SANDBOX if definition.ingress else balancer_namespace(definition.id)
    port = (overlay_namespace(definition.id), BALANCER_PORT, f"br{segment}")
    virtual = map(IPv4Interface, addresses)
    yield from cable(
        port, (space, "eth0"), mtu_of(definition, facts), own.mac, own.address, *virtual
    )
    yield Namespace(name=space, sysctls=QUIET)
    if not definition.ingress:
        source = f'oifname "eth0" ip saddr != {own.address.ip} snat ip to {own.address.ip}'
        yield Namespace(
            name=space,
            tables=table(nft.base_chain("vip-nat-post", "nat", "postrouting", nft.SRCNAT, source)),
        )
        yield choice(space, own.address.ip)


def addresses(services: Services) -> list[IPv4Address]:
    """The virtual addresses, ascending."""
    return [destination for destination in services if isinstance(destination, IPv4Address)]


def choice(space: str, caller: IPv4Address) -> Namespace:
    """The translation of virtual addresses for one caller, in its own namespace;
    `fragments.serving` adds the services. Connections to a service without a task are refused at
    once."""
    return Namespace(name=space, tables=table(_HOOKS, sets=VIRTUAL_SETS, start=int(caller)))


def refusal(name: str, icmp: str) -> str:
    """A chain that answers at once instead of letting the caller wait."""
    return nft.chain(
        name, "meta l4proto tcp reject with tcp reset", f"reject with icmp type {icmp}"
    )


_HOOKS = "\n".join((
    refusal("vip-refuse", "host-unreachable"),
    nft.base_chain("vip-out", "filter", "output", nft.MANGLE, "ip daddr @vip-unserved ct state new goto vip-refuse"),
    nft.base_chain("vip-nat-out", "nat", "output", nft.DSTNAT, *virtual_choice()),
))  # fmt: skip
