"""Who a container may say it is on an overlay: itself. Its addresses are what others know it by.

    previous hop   sandbox.py: a frame leaves the container by eth<k>
    this hop       its port on br<i>: its MAC and its address, of IP and of ARP
    next hop       overlay.py: br<i> gives the frame to another container or to vxlan<i>

The port is locked, so the frame's MAC is the container's (`fragments.cable`). With it the sender's
address must be one of the container's, in IP packets and in ARP alike: nobody takes an address from
its owner by saying to neighbours that it is elsewhere. What is neither IPv4 nor ARP stops here; so
do frames with a VLAN's tag, in which the rest would not be looked at. Each host looks after its own
containers. Frames of other hosts, and of this host's balancer and leg, which have other senders,
are let through. Any of the container's addresses will do, because a process may be bound to the one
of another network. One look-up for a frame, one element for each address.
"""

from collections.abc import Iterator, Sequence

from weft.model.addresses import mac_for
from weft.model.assignment import NetworkDefinition
from weft.model.workload import Workload
from weft.network import nft
from weft.network.fragments import table
from weft.network.gateway import SENDERS
from weft.network.ingress import LEG_PORT
from weft.network.kernel_state import ElementSet, Entry, Namespace
from weft.network.loadbalancer import BALANCER_PORT
from weft.network.ownership import overlay_namespace


def guard(definition: NetworkDefinition, workloads: Sequence[Workload]) -> Namespace:
    """Of one network's bridges. `workloads`: of this host."""
    tunnels = (f"vxlan{i}" for i in range(len(definition.segments)))
    trusted = ", ".join(f'"{port}"' for port in (*tunnels, BALANCER_PORT, LEG_PORT))
    body = nft.base_chain(
        "source-guard",
        "filter",
        "prerouting",
        nft.RAW,
        f"iifname {{ {trusted} }} accept",
        "ether type ip ether saddr . ip saddr @senders accept",
        "ether type arp ether saddr . arp saddr ip @senders accept",
        "drop",
    )
    senders = ElementSet(SENDERS, dict.fromkeys(_senders(definition, workloads), ()))
    return Namespace(
        name=overlay_namespace(definition.id), tables=table(body, "bridge", {"senders": senders})
    )


def _senders(definition: NetworkDefinition, workloads: Sequence[Workload]) -> Iterator[Entry]:
    for workload in workloads:
        for here in workload.attachments:
            if here.network == definition.id:
                mac = mac_for(here.address.ip)
                yield from ((mac, attachment.address.ip) for attachment in workload.attachments)
