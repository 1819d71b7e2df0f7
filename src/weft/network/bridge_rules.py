"""The rules of the host for its own networks that are the same in IPv4 and IPv6: what passes between
networks, what is published, and whose address goes outside."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from weft.model.addresses import Address, Subnet
from weft.model.bridge_network import BridgeNetwork
from weft.network import nft
from weft.network.ownership import INGRESS_LEG
from weft.network.render.services import PROTOCOLS

Family = Literal["ip", "ip6"]


class Reach(NamedTuple):
    """A network in one family."""

    network: BridgeNetwork
    subnet: Subnet
    gateway: Address


def devices(bridges: Sequence[BridgeNetwork]) -> str:
    """A set of nftables."""
    names = ", ".join(f'"{network.device}"' for network in bridges)
    return f"{{ {names} }}"


def forward_chain(bridges: Sequence[BridgeNetwork]) -> str:
    """Nothing goes into a bridge but answers, what was published, and what passes within a network.
    Within a network packets pass here only if the host routes them, or if it filters bridges
    (`bridge-nf-call-iptables`)."""
    closed = [
        f'iifname "{n.device}" oifname != "{n.device}" drop' for n in bridges if n.spec.internal
    ]
    within = [f'iifname "{n.device}" oifname "{n.device}" accept' for n in bridges if n.spec.talks]
    return nft.base_chain(
        "bridge-forward",
        "filter",
        "forward",
        nft.FILTER,
        *closed,
        f"oifname != {devices(bridges)} accept",
        "ct state established,related accept",
        "ct status dnat accept",
        *within,
        "drop",
    )


def translation(family: Family, maps: tuple[str, str], coming: str, local: str) -> tuple[str, str]:
    """Published ports lead to their containers. `maps`: of ports at all addresses of the host, and at
    one; `coming`, `local`: what packets that come in, and the host's own, must be to count."""
    protocols = f"meta l4proto {{ {', '.join(PROTOCOLS)} }}"
    everywhere, somewhere = maps
    targets = (
        f"{protocols} dnat {family} to {family} daddr . meta l4proto . th dport map @{somewhere}",
        f"{protocols} dnat {family} to meta l4proto . th dport map @{everywhere}",
    )
    return (
        _nat("bridge-nat-in", "prerouting", nft.DSTNAT, (f"{coming} {each}" for each in targets)),
        _nat("bridge-nat-out", "output", nft.DSTNAT, (f"{local} {each}" for each in targets)),
    )


def outward(family: Family, having: Sequence[Reach], own: Sequence[str] = ()) -> str:
    """A container that calls a published port gets the bridge's address, and so does the host that
    calls it from one of its `own` subnets; to the outside all have the host's address."""
    sources = ", ".join((*own, *(str(reach.subnet) for reach in having)))
    inward = [
        f'oifname "{network.device}" ct status dnat {family} saddr {{ {sources} }} snat {family} to'
        f" {gateway}"
        for network, _, gateway in having
    ]
    masked = [
        f'oifname != {{ "{network.device}", "{INGRESS_LEG}" }} {family} saddr {subnet} masquerade'
        for network, subnet, _ in having
        if network.spec.masquerades and not network.spec.internal
    ]
    return _nat("bridge-nat-post", "postrouting", nft.SRCNAT, (*inward, *masked))


def _nat(name: str, hook: str, priority: int, rules: Iterable[str]) -> str:
    return nft.base_chain(name, "nat", hook, priority, *rules)
