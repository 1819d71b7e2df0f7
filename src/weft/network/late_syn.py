"""No client is refused because it asked a container that is about to stop.

    previous hop   source_guard.py: a container's frame at its port on br<i>
    this hop       is it the reset of a SYN that came too late? Then it is dropped
    next hop       overlay.py: br<i> gives the frame to another container or to vxlan<i>

A host that is behind still sends connections to a task that is about to stop. Once the program has
closed its port, the kernel would refuse them, and the client would give up. A SYN without an answer
is sent again after a second, and then goes to another task, because the caller's namespace forgets
unanswered flows to this one when its own rules change (`flows.py`). The mesh has its own way
(`reply.py`): it can let nobody in, because all its clients chose the service.

On an overlay clients may have chosen the container: members of one database talk to each other
until the last has ended. So a program that still listens is reached, established connections go on
and may be reset, and only the reset of a SYN is held back: it has the sequence number 0, because
there was no acknowledgement to take one from (RFC 9293, 3.10.7.1).
"""

from collections.abc import Iterator, Sequence

from weft.model.assignment import NetworkDefinition
from weft.model.workload import Workload
from weft.network import nft
from weft.network.fragments import table
from weft.network.kernel_state import ElementSet, Entry, Namespace, SetType
from weft.network.ownership import overlay_namespace

CLOSED = SetType(("ipv4_addr",))


def silence(definition: NetworkDefinition, workloads: Sequence[Workload]) -> Namespace:
    """The rule on one network's bridges. `workloads`: those on this host."""
    reset = "tcp flags & (fin | syn | rst | ack) == rst | ack tcp sequence 0"
    body = nft.base_chain(
        "late-syn",
        "filter",
        "prerouting",
        nft.MANGLE,
        f"ether type ip ip protocol tcp {reset} ip saddr @closed drop",
    )
    closed = ElementSet(CLOSED, dict.fromkeys(_closed(definition, workloads), ()))
    return Namespace(
        name=overlay_namespace(definition.id), tables=table(body, "bridge", {"closed": closed})
    )


def _closed(definition: NetworkDefinition, workloads: Sequence[Workload]) -> Iterator[Entry]:
    for workload in workloads:
        if workload.is_closed:
            yield from (
                (here.address.ip,) for here in workload.attachments if here.network == definition.id
            )
