"""Which flows to cut when tasks stop serving.

A UDP flow that keeps talking stays with its first choice for ever, because connection tracking remembers it: those entries have to be
forgotten, so that the next datagram is sent to a task that serves. The same goes for a TCP connection that nobody has answered
yet, as when the task's host has lost its power: its SYN is sent again. TCP to a task that did answer ends with the task.
Where it is remembered: on every host for published ports, and in each container for virtual addresses.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address

from weft.model.assignment import Assignment, EndpointRecord, NetworkView
from weft.model.ids import NetworkId
from weft.model.sandbox import Sandbox
from weft.network.kernel_state import HOST
from weft.network.memo import exchanged
from weft.network.ownership import balancer_namespace


def stale_flows(before: Assignment, after: Assignment, sandboxes: Sequence[Sandbox]) -> list[tuple[str, IPv4Address]]:
    """(namespace, address of a task) of the flows to forget: entries of which the answers come from that address, or would
    (`conntrack -D -p udp --reply-src <address>` in that namespace, and TCP without an answer). Sorted."""
    found: set[tuple[str, IPv4Address]] = set()
    for id, view in before.networks.items():
        gone = _gone(view, after.networks.get(id))
        for space in _observers(id, view, after, sandboxes) if gone else ():
            found.update((space, address) for address in gone)
    return sorted(found)


def _gone(before: NetworkView, after: NetworkView | None) -> set[IPv4Address]:
    """Addresses that new flows of some service were sent to, and are no longer. Most endpoints are the very same."""
    if after is before:
        return set()
    now = after.endpoints if after is not None else {}
    gone, _ = exchanged(before.endpoints, now)
    stopped = {int(endpoint.address): endpoint.address.ip for endpoint in gone if _serves(endpoint)}
    for endpoint in now.values() if stopped else ():
        if _serves(endpoint):
            stopped.pop(int(endpoint.address), None)
    return set(stopped.values())


def _serves(endpoint: EndpointRecord) -> bool:
    return endpoint.serving and endpoint.service is not None


def _observers(id: NetworkId, view: NetworkView, after: Assignment, sandboxes: Sequence[Sandbox]) -> list[str]:
    """Namespaces that translate to addresses of this network."""
    if view.definition.ingress:
        return [HOST]
    attached = {t.id for t in after.tasks.values() if any(a.network == id for a in t.attachments)}
    containers = [s.key for s in sandboxes if s.task in attached]
    return [*containers, balancer_namespace(id)] if containers else []
