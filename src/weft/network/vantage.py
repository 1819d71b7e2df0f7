"""Where a node's packets can be seen: which interfaces, in which namespaces, a capture watches."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from weft.model.assignment import Overlays
from weft.model.capture import CaptureWanted, Instruction
from weft.model.workload import SERVICE_LABEL, TASK_LABEL, Resident
from weft.network.kernel_state import HOST
from weft.network.ownership import overlay_namespace

WIRE = "underlay"
"""Name of the host's own interface in a capture."""
_ETHERTYPE, _IP_PROTOCOL, _FRAGMENT, _IP_HEADER = 12, 23, 20, 14
_LOAD_HALF, _LOAD_BYTE, _LOAD_HEADER, _LOAD_HALF_BEHIND = 0x28, 0x30, 0xB1, 0x48
_JUMP_EQUAL, _JUMP_BITS, _RETURN = 0x15, 0x45, 0x06
_ESP, _UDP, _IPV4, _OFFSET_BITS = 50, 17, 0x0800, 0x1FFF
_ALL = 0x40000


class Vantage(NamedTuple):
    """An interface to watch. Without a device it is the one that has the data path address."""

    name: str
    namespace: str
    device: str = ""


def vantages(
    overlays: Overlays, residents: Iterable[Resident], wanted: CaptureWanted
) -> Iterator[Vantage]:
    """The containers' interfaces first, then the tunnels, then the wire."""
    here = [resident for resident in residents if _concerns(resident, wanted)]
    for sandbox, workload in here:
        for place, attachment in enumerate(workload.attachments):
            if wanted.network in (None, attachment.network) and attachment.network in sandbox.ports:
                device = sandbox.interface(attachment.network, place)
                yield Vantage(f"{workload.place}/{device}", sandbox.key, device)
    view = overlays.networks.get(wanted.network) if wanted.network is not None else None
    if view is not None and here:
        for i in range(len(view.definition.segments)):
            name = f"{view.definition.name}/vxlan{i}"
            yield Vantage(name, overlay_namespace(view.definition.id), f"vxlan{i}")
    if wanted.wire and here:
        yield Vantage(WIRE, HOST)


def _concerns(resident: Resident, wanted: CaptureWanted) -> bool:
    workload = resident.workload
    if wanted.network is not None:
        return any(attachment.network == wanted.network for attachment in workload.attachments)
    if wanted.service is not None:
        return workload.labels.get(SERVICE_LABEL) == wanted.service
    return workload.labels.get(TASK_LABEL) == wanted.task


def wire_filter(port: int) -> tuple[Instruction, ...]:
    """Takes ESP, and UDP to `port`, the data path's."""
    return (
        (_LOAD_HALF, 0, 0, _ETHERTYPE),
        (_JUMP_EQUAL, 0, 9, _IPV4),
        (_LOAD_BYTE, 0, 0, _IP_PROTOCOL),
        (_JUMP_EQUAL, 6, 0, _ESP),
        (_JUMP_EQUAL, 0, 6, _UDP),
        (_LOAD_HALF, 0, 0, _FRAGMENT),
        (_JUMP_BITS, 4, 0, _OFFSET_BITS),
        (_LOAD_HEADER, 0, 0, _IP_HEADER),
        (_LOAD_HALF_BEHIND, 0, 0, _IP_HEADER + 2),
        (_JUMP_EQUAL, 0, 1, port),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, 0),
    )
