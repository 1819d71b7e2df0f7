"""Chooses what a new sandbox gets: an address on docker_gwbridge, and a port on the bridge of each
of its networks. Pure."""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Interface

from weft.errors import Exhausted
from weft.model.ids import ContainerId, NetworkId
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.workload import Workload


def new_sandbox(
    id: str,
    workload: Workload,
    container: ContainerId,
    facts: NodeFacts,
    held: Collection[Sandbox],
    cursor: int = 0,
) -> Sandbox:
    """`held`: all sandboxes on this node. `cursor`: the address given last, as an integer; the
    search begins behind it. Raises `Exhausted`."""
    gateway = choose_gateway(facts, {s.gateway.ip for s in held}, cursor)
    return Sandbox(
        id=id,
        workload=workload.id,
        container=container,
        gateway=gateway,
        ports=choose_ports(workload, held),
    )


def choose_gateway(facts: NodeFacts, held: Collection[IPv4Address], cursor: int) -> IPv4Interface:
    """The next free address of docker_gwbridge behind the cursor, wrapping at the end of the
    subnet; never the bridge's own nor `ingress_sbox`'s. Next-fit, so that a released address is not
    given away again at once. Raises `Exhausted`."""
    network = facts.gateway.network
    first, last = int(network.network_address) + 1, int(network.broadcast_address) - 1
    taken = {*map(int, held), int(facts.gateway.ip), int(facts.ingress_gateway.ip)}
    start = cursor + 1 if first <= cursor < last else first
    for candidate in (
        *range(start, min(start + len(taken) + 1, last + 1)),
        *range(first, min(first + len(taken) + 1, start)),
    ):
        if candidate not in taken:
            return IPv4Interface((candidate, network.prefixlen))
    raise Exhausted(
        f"cannot give the sandbox an address: none is free in {network} of docker_gwbridge"
    )


def choose_ports(workload: Workload, held: Iterable[Sandbox]) -> dict[NetworkId, int]:
    """For each network of the workload, the lowest veth number that no other sandbox has there;
    from 1."""
    used: dict[str, set[int]] = {}
    for sandbox in held:
        for network, port in sandbox.ports.items():
            used.setdefault(network, set()).add(port)
    return {a.network: lowest_free(used.get(a.network, set())) for a in workload.attachments}


def lowest_free(used: Collection[int]) -> int:
    return next(n for n in range(1, len(used) + 2) if n not in used)
