"""A service's virtual address: each container chooses a task itself, before the packet leaves it.

    previous hop   a process in a container sends to the virtual address
    this hop       the container's own output hook: DNAT to a serving task's address, ports untouched
    next hop       overlay.py: an ordinary packet from container to container, with the caller's address

There is no balancer on the way, so nothing is masqueraded and no hop is added. All protocols are translated: ping works too.
The network's load-balancer namespace (`lb_<id9>`, `ingress_sbox` for the ingress network) holds the virtual addresses on its
eth0, where people look for them and where ARP for them is answered, and the same table. A virtual address is local there, so
its own packets would leave with it as their source, and the answer get lost on another host: they take the balancer's.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

from weft.model.assignment import NetworkView
from weft.model.sandbox import NodeFacts
from weft.network import nft
from weft.network.fragments import cable, table
from weft.network.kernel_state import Namespace
from weft.network.overlay import QUIET, mtu_of, segment_of
from weft.network.ownership import INGRESS_SANDBOX, balancer_namespace, overlay_namespace
from weft.network.render.services import VIRTUAL_SETS, virtual_choice
from weft.network.service_table import Services

BALANCER_PORT = "veth0"
"""Of the bridge, towards the network's load-balancer namespace."""


def balancer(view: NetworkView, services: Services, facts: NodeFacts) -> Iterator[Namespace]:
    """The network's load-balancer namespace on this host; nothing until the manager has given it an address."""
    own = view.load_balancer(facts.node)
    definition = view.definition
    segment = segment_of(definition, own.address.ip) if own else None
    if own is None or segment is None:
        return
    space = INGRESS_SANDBOX if definition.ingress else balancer_namespace(definition.id)
    virtual = (IPv4Interface(address) for address in services if isinstance(address, IPv4Address))
    port = (overlay_namespace(definition.id), BALANCER_PORT, f"br{segment}")
    yield from cable(port, (space, "eth0"), mtu_of(definition, facts), own.mac, own.address, *virtual)
    yield Namespace(name=space, sysctls=QUIET)
    if not definition.ingress:
        source = f'oifname "eth0" ip saddr != {own.address.ip} snat ip to {own.address.ip}'
        post = nft.base_chain("vip-nat-post", "nat", "postrouting", nft.SRCNAT, source)
        yield Namespace(name=space, tables=table(post))
        yield choice(space, services, own.address.ip)


def choice(space: str, services: Services, caller: IPv4Address) -> Namespace:
    """The translation of virtual addresses for one caller, in its own namespace. A service without a task is refused at once."""
    unserved = "ip daddr @vip-unserved ct state new goto vip-refuse"
    hooks = "\n".join((
        refusal("vip-refuse", "host-unreachable"),
        nft.base_chain("vip-out", "filter", "output", nft.MANGLE, unserved),
        nft.base_chain("vip-nat-out", "nat", "output", nft.DSTNAT, *virtual_choice()),
    ))  # fmt: skip
    return Namespace(name=space, tables=table(hooks, sets=VIRTUAL_SETS, services=services, start=int(caller)))


def refusal(name: str, icmp: str) -> str:
    """A chain that answers at once instead of letting the caller wait."""
    return nft.chain(name, "meta l4proto tcp reject with tcp reset", f"reject with icmp type {icmp}")
