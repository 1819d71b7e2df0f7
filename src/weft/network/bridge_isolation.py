"""What passes between this node's own networks: the same in IPv4 and IPv6."""

from collections.abc import Sequence

from weft.model.bridge_network import BridgeNetwork
from weft.network import nft


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
