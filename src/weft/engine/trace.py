"""Walks a packet through this host's own kernel, as it is now.

The walk itself is `network/trace/walk.py`. Here its state is read, one namespace after the other, as
far as the packet comes; nothing of it leaves this host but the packet's way."""

from collections.abc import Iterable, Mapping

import msgspec

from weft.errors import OperationFailed
from weft.linux.base import Kernel
from weft.model.trace import Asked, Cause, CauseKind, Entry, Flow, FromProcess, Passage, Stopped
from weft.network.kernel_state import HOST
from weft.network.trace.flights import Memory
from weft.network.trace.host import Seals, Unread
from weft.network.trace.walk import walk


async def passage(
    kernel: Kernel,
    entry: Entry,
    flows: Iterable[Flow] = (),
    seals: Seals | None = None,
    labels: Mapping[str, str] | None = None,
) -> Passage:
    """`flows`: of the packet that this one answers. `labels`: what namespaces are for. Raises
    `OperationFailed`."""
    whole = [HOST, *([entry.namespace] if isinstance(entry, FromProcess) else [])]
    host = msgspec.structs.replace(await kernel.survey(whole), seals=seals)
    known = tuple(flows)
    while True:
        try:
            found = walk(host, entry, Memory(known))
        except Unread as missing:
            spaces = (await kernel.survey([missing.name], host)).spaces
            if missing.name not in spaces or not spaces[missing.name].whole:
                raise OperationFailed(
                    f"cannot follow the packet: no network namespace {missing.name}"
                ) from None
            host = msgspec.structs.replace(host, spaces=spaces)
            continue
        return msgspec.structs.replace(found, labels=_shown(found, labels or {}))


def _shown(found: Passage, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of namespaces that are named in the passage."""
    causes = [*found.remarks, *([found.exit.cause] if isinstance(found.exit, Stopped) else [])]
    named = {step.namespace for step in found.steps} | {cause.namespace for cause in causes}
    return {name: label for name, label in labels.items() if name in named}


def unresolved(namespace: str, asked: Asked, labels: Mapping[str, str]) -> Passage:
    """Of a packet that was not sent, since the sender found no address for the name."""
    if asked.addresses is None:
        missing = "no network of the sender knows this name; other name servers were not asked"
        repair = "a network that both are on, and the name as docker service ls shows it"
    else:
        missing = "the service is known, but no task of it serves"
        repair = "docker service ps shows why no task runs"
    words = f"cannot look up {asked.name}"
    cause = Cause(CauseKind.NO_NAME, namespace, "", words, missing, repair)
    shown = {name: label for name, label in labels.items() if name == namespace}
    return Passage(steps=(), exit=Stopped(cause), labels=shown, asked=asked)
