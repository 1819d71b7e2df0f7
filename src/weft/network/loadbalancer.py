"""A service's virtual address: each container chooses a task itself, before the packet leaves it.

    previous hop   a process in a container sends to the virtual address
    this hop       the container's own output hook: DNAT to a serving task's address, ports untouched
    next hop       overlay.py: an ordinary packet from container to container, with the caller's address

There is no balancer on the way, so nothing is masqueraded and no hop is added. All protocols are translated: ping works too.
The network's load-balancer namespace (`lb_<id9>`, `ingress_sbox` for the ingress network) holds the virtual addresses on its
eth0, where people look for them and where ARP for them is answered, and the same table. A virtual address is local there, so
its own packets would leave with it as their source, and the answer get lost on another host: they take the balancer's.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface

import msgspec

from weft.model.assignment import EndpointRecord, NetworkView
from weft.model.ids import ServiceId
from weft.model.sandbox import NodeFacts
from weft.network import nft
from weft.network.fragments import cable, table
from weft.network.ingress import refusal
from weft.network.kernel_state import Namespace
from weft.network.overlay import QUIET, mtu_of, segment_of
from weft.network.ownership import INGRESS_SANDBOX, balancer_namespace, overlay_namespace

BALANCER_PORT = "veth0"
"""Of the bridge, towards the network's load-balancer namespace."""
Serving = dict[ServiceId, list[EndpointRecord]]


class VirtualService(msgspec.Struct, frozen=True):
    address: IPv4Address
    name: str
    backends: tuple[IPv4Address, ...]
    """Of the serving tasks, ascending."""


def serving(view: NetworkView) -> Serving:
    """Serving endpoints of each service, by address."""
    found: Serving = {}
    for endpoint in view.endpoints.values():
        if endpoint.serving and endpoint.service is not None:
            found.setdefault(endpoint.service, []).append(endpoint)
    for endpoints in found.values():
        endpoints.sort(key=lambda e: e.address)
    return found


def virtual_services(view: NetworkView, backends: Serving) -> list[VirtualService]:
    """The services with a virtual address, by address."""
    found = [
        VirtualService(service.virtual_address, service.name, tuple(e.address.ip for e in backends.get(service.id, ())))
        for service in view.services.values()
        if service.virtual_address is not None
    ]
    return sorted(found, key=lambda v: v.address)


def balancer(view: NetworkView, services: list[VirtualService], facts: NodeFacts) -> Iterator[Namespace]:
    """The network's load-balancer namespace on this host; nothing until the manager has given it an address."""
    own = view.load_balancer(facts.node)
    definition = view.definition
    segment = segment_of(definition, own.address.ip) if own else None
    if own is None or segment is None:
        return
    space = INGRESS_SANDBOX if definition.ingress else balancer_namespace(definition.id)
    virtual = (IPv4Interface(service.address) for service in services)
    port = (overlay_namespace(definition.id), BALANCER_PORT, f"br{segment}")
    yield from cable(port, (space, "eth0"), mtu_of(definition, facts), own.mac, own.address, *virtual)
    yield Namespace(name=space, sysctls=QUIET)
    if not definition.ingress:
        source = f'oifname "eth0" ip saddr != {own.address.ip} snat ip to {own.address.ip}'
        post = nft.base_chain("vip-nat-post", "nat", "postrouting", nft.SRCNAT, source)
        yield Namespace(name=space, tables=table(f"{choice(services, own.address.ip)}\n{post}"))


def choice(services: Iterable[VirtualService], caller: IPv4Address) -> str:
    """Text of the chains that translate virtual addresses for one caller; each caller begins with another task."""
    unserved, chains, verdicts = [], [], {}
    for service in services:
        if not service.backends:
            unserved.append(str(service.address))
            continue
        rules = nft.dnat(nft.rotated([str(b) for b in service.backends], int(caller)), comment=service.name)
        chains.append(nft.chain(f"vip-{service.address}", *rules))
        verdicts[str(service.address)] = f"goto vip-{service.address}"
    return "\n".join((
        nft.named_set("vip-unserved", "ipv4_addr", unserved),
        *chains,
        nft.named_map("vip-services", "ipv4_addr : verdict", verdicts),
        refusal("vip-refuse", "host-unreachable"),
        nft.base_chain("vip-out", "filter", "output", nft.MANGLE, "ip daddr @vip-unserved ct state new goto vip-refuse"),
        nft.base_chain("vip-nat-out", "nat", "output", nft.DSTNAT, "ip daddr vmap @vip-services"),
    ))  # fmt: skip
