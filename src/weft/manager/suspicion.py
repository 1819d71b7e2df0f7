"""A session that ended may be a daemon that is restarting, or a host that is gone. The host itself is asked, at once.

Containers and their traffic outlive a daemon, so the end of a session says nothing of the tasks, and silence takes three heartbeats
to become the verdict DOWN (`liveness.py`). But when the kernel of the host does not answer either, new connections should not be
sent there meanwhile: its node becomes DISCONNECTED. That takes no task away from it and restarts nothing; its endpoints do not
serve until its next session, which makes it READY again.

It is asked over the ingress network, which is the way the connections would take and passes every firewall that they pass, and on
its own address; one answer is enough. A host that loses its power without a word is found by its silence alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address

import msgspec

from weft.errors import WeftError
from weft.manager.transaction import transact
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeState, NodeStatus
from weft.model.state import Change, ClusterState, Put
from weft.store.base import Store

log = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds from one answer to the next question."""

Probe = Callable[[Sequence[IPv4Address]], Awaitable[bool]]
"""Whether the host that has these addresses answers on any of them; takes a few tenths of a second to say no."""


async def any_host_answers(addresses: Sequence[IPv4Address]) -> bool:
    """The `Probe` of a manager that cannot ask: nobody is suspected."""
    return True


class Suspicion:
    def __init__(self, store: Store, clock: Callable[[], Nanoseconds], probe: Probe) -> None:
        self._store = store
        self._clock = clock
        self._probe = probe
        self._lost: dict[NodeId, NodeStatus] = {}
        """Without a session since they had this status."""
        self._news: asyncio.Queue[NodeId] = asyncio.Queue()

    def lost(self, id: NodeId) -> None:
        """This manager's session with the node has ended."""
        node = self._store.state.nodes.get(id)
        if node is not None and node.status.state is NodeState.READY:
            self._lost[id] = node.status
            self._news.put_nowait(id)

    def back(self, id: NodeId) -> None:
        """It has a session with this manager again."""
        self._lost.pop(id, None)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                id = await self._news.get()
                group.create_task(self._look(id))

    async def _look(self, id: NodeId) -> None:
        """For as long as the node has no session with this manager, and nobody else has anything to say about it: a host that is
        being shut down ends its programs first."""
        try:
            while self._is_lost(id):
                if not await self._probe(addresses(self._store.state, self._store.state.nodes[id])):
                    await transact(self._store, lambda state: suspected(state, id, self._lost.get(id), self._clock()))
                    return
                await asyncio.sleep(PAUSE)
        except (WeftError, OSError) as cause:
            log.warning("node.not_probed node=%s cause=%s", id, cause)
        finally:
            self._lost.pop(id, None)

    def _is_lost(self, id: NodeId) -> bool:
        node = self._store.state.nodes.get(id)
        return node is not None and id in self._lost and node.status == self._lost[id]


def addresses(state: ClusterState, node: Node) -> tuple[IPv4Address, ...]:
    """Where the kernel of the node answers: its leg on the ingress network, and the address of its data path."""
    ingress = state.ingress
    legs = (leg.address.ip for leg in node.attachments if ingress is not None and leg.network == ingress.id)
    own = (node.data_path_address,) if node.data_path_address is not None else ()
    return (*legs, *own)


def suspected(state: ClusterState, id: NodeId, status: NodeStatus | None, now: Nanoseconds) -> list[Change]:
    """`status`: of the node when its session ended; nothing, if it has had another one since."""
    node = state.nodes.get(id)
    if node is None or node.status != status:
        return []
    log.warning("node.suspected node=%s hostname=%s", id, node.description.hostname)
    changed = msgspec.structs.replace(
        node.status, state=NodeState.DISCONNECTED, message="its host does not answer", since=now
    )  # fmt: skip
    return [Put(msgspec.structs.replace(node, status=changed))]
