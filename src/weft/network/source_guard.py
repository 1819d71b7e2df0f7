"""The source guard of an overlay: a container may send only from its own addresses, by which others
know it.

    previous hop   sandbox.py: a frame leaves the container by eth<k>
    this hop       its port on br<i>: are the sender's MAC and address its own, in IP and in ARP?
    next hop       overlay.py: br<i> gives the frame to another container or to vxlan<i>

The port is locked, so the frame's MAC is the container's (`fragments.cable`). The sender's address,
in IP packets and in ARP, must be an address of the container with that MAC: no container can take
an address from its owner by telling neighbours that the address has moved. Frames that are neither
IPv4 nor ARP are dropped; so are frames with a VLAN tag, whose content would not be checked. Each
host guards its own containers. Frames from other hosts, and from this host's balancer and leg, have
other senders and are let through. Any address of the container is accepted, because a process may
be bound to the address of another network. A frame costs one look-up, an address one element.
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
    """The guard of one network's bridges. `workloads`: those on this host."""
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
