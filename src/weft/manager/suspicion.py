"""Finds hosts that are gone, by asking their kernels, so that no new connections are sent there.

When a session ends, its daemon may be restarting or its host may be gone: the manager probes the
host at once. `host_monitor.py` finds hosts that lose power or their cable while a session lasts: it
constantly asks the hosts of all sessions, and the hosts of the other managers, which have sessions
with themselves.

Containers and their traffic outlive a daemon, so the end of a session says nothing about the tasks,
and a silent node becomes DOWN only after three heartbeats (`liveness.py`). But if the kernel of the
host does not answer either, new connections should not be sent there meanwhile: the node becomes
DISCONNECTED. That moves and restarts no task. The node's endpoints do not serve until its next
session makes it READY again.

A host is probed at its address on the ingress network, because new connections would take that path
and pass the same firewalls, and at its own address; one answer is enough. A manager that gets no
answer from any host suspects nobody: it is cut off itself. A suspect host that answers again while
its session lasts is READY at once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address

import msgspec

from weft.control.requests.nodes import HOST_STOPS
from weft.errors import WeftError
from weft.manager.transaction import transact
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeState, NodeStatus
from weft.model.state import Change, ClusterState, Put
from weft.session.base import Echo
from weft.session.host_monitor import PERIOD, HostMonitor
from weft.store.base import Store
from weft.system.supervision import contained, lasting

log = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds from an answer to the next probe."""
COMMIT = 0.4
"""Seconds until a verdict that was not committed is tried again."""
WITNESSES = 4
"""Hosts that are asked at least, if there are as many. By asking a single host, a manager could not
tell whether that host or the manager itself is cut off."""

Probe = Callable[[Sequence[IPv4Address]], Awaitable[bool]]
"""Tells whether the host with these addresses answers on any of them. A False takes a few tenths of
a second."""


async def any_host_answers(addresses: Sequence[IPv4Address]) -> bool:
    """The `Probe` of a manager that cannot ask: it suspects nobody."""
    return True


class _Loss:
    """The end of a node's last session here. Losses are compared by identity: a node may lose many
    sessions."""

    def __init__(self, node: NodeId, status: NodeStatus) -> None:
        self.node = node
        self.status = status
        """The node's status when the session ended."""


class Suspicion:
    def __init__(
        self,
        own: NodeId,
        store: Store,
        clock: Callable[[], Nanoseconds],
        probe: Probe,
        open_echo: Callable[[], Echo] | None = None,
    ) -> None:
        """`own`: the manager's node. `open_echo`: None where hosts cannot be monitored."""
        self._own = own
        self._store = store
        self._clock = clock
        self._probe = probe
        self._lost: dict[NodeId, _Loss] = {}
        """Nodes that have lost their session with this manager and have no new one."""
        self._news: asyncio.Queue[_Loss] = asyncio.Queue()
        self._here: set[NodeId] = set()
        """Nodes with a session with this manager."""
        self._host_monitor = (
            HostMonitor(open_echo, self._hosts, self._gone) if open_echo is not None else None
        )
        self._silent: dict[NodeId, NodeStatus] = {}
        self._some_silent = asyncio.Event()

    def lost(self, id: NodeId) -> None:
        """This manager's session with the node has ended."""
        self._here.discard(id)
        node = self._store.state.nodes.get(id)
        if node is not None and node.status.state is NodeState.READY:
            self._lost[id] = loss = _Loss(id, node.status)
            self._news.put_nowait(loss)

    def back(self, id: NodeId) -> None:
        """The node has a session with this manager again."""
        self._here.add(id)
        self._lost.pop(id, None)

    def answers(self) -> dict[NodeId, bool]:
        """Of the hosts that this manager monitors, whether each answers; none where it cannot
        monitor hosts."""
        monitor = self._host_monitor
        return {NodeId(id): monitor.answers(id) for id in self._hosts()} if monitor else {}

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            if (host_monitor := self._host_monitor) is not None:
                group.create_task(lasting("host monitor", host_monitor.run))
                group.create_task(
                    lasting("silent hosts", partial(self._suspect_silent, host_monitor))
                )
                group.create_task(lasting("suspected hosts", partial(self._believe, host_monitor)))
            while True:
                loss = await self._news.get()
                group.create_task(contained(f"probe of node {loss.node}", self._look(loss)))

    # --- sessions that ended

    async def _look(self, loss: _Loss) -> None:
        """Probes the host while its node has no session with this manager and no new status: a host
        that shuts down ends its programs before it stops to answer.

        During a probe the node may begin its next session, and lose that one too, so everything is
        looked up again after a wait."""
        try:
            while self._holds(loss):
                node = self._store.state.nodes[loss.node]
                answers = await self._probe(addresses(self._store.state, node))
                if not self._holds(loss):
                    return
                if not answers:
                    await self._suspect({loss.node: loss.status}, lambda: self._holds(loss))
                    return
                await asyncio.sleep(PAUSE)
        except (WeftError, OSError) as cause:
            log.warning("node.not_probed node=%s cause=%s", loss.node, cause)
        finally:
            if self._lost.get(loss.node) is loss:
                del self._lost[loss.node]

    def _holds(self, loss: _Loss) -> bool:
        return self._lost.get(loss.node) is loss and self._is(loss.node, loss.status)

    # --- hosts that fell silent

    def _hosts(self) -> dict[str, Sequence[IPv4Address]]:
        state = self._store.state
        others = [
            node
            for id, node in state.nodes.items()
            if id != self._own and node.data_path_address is not None
        ]
        watched = [node for node in others if node.id in self._here or node.manager_address]
        if len(watched) < WITNESSES:
            watched += [
                n for n in others if n not in watched and n.status.state is NodeState.READY
            ][: WITNESSES - len(watched)]
        return {node.id: addresses(state, node) for node in watched}

    def _gone(self, hosts: Collection[str], others_answer: bool) -> None:
        if not others_answer:
            log.warning("manager.cut_off silent=%d", len(hosts))
            return
        for id in map(NodeId, hosts):
            node = self._store.state.nodes.get(id)
            if (
                node is not None
                and node.status.state is NodeState.READY
                and (id in self._here or node.manager_address)
            ):
                self._silent[id] = node.status
                self._some_silent.set()

    async def _suspect_silent(self, host_monitor: HostMonitor) -> None:
        """Suspects all silent hosts together, and repeats that. One of them may have been the
        leader's: then nothing is committed before there is a new leader, and earlier requests to
        the store are lost."""
        while True:
            self._silent = {
                id: status
                for id, status in self._silent.items()
                if self._is(id, status) and not host_monitor.answers(id)
            }
            if not self._silent:
                self._some_silent.clear()
                await self._some_silent.wait()
            try:
                async with asyncio.timeout(COMMIT):
                    await self._suspect(dict(self._silent))
            except TimeoutError:
                log.info(
                    "node.not_suspected nodes=%d cause=%r",
                    len(self._silent),
                    "the store does not answer",
                )
            except (WeftError, OSError) as cause:
                log.warning("node.not_suspected nodes=%d cause=%s", len(self._silent), cause)
                await asyncio.sleep(PAUSE)

    async def _believe(self, host_monitor: HostMonitor) -> None:
        """Restores suspect nodes that have a session here and answer. This manager's own host
        always answers."""
        while True:
            await asyncio.sleep(PERIOD)
            for id, node in list(self._store.state.nodes.items()):
                if (
                    is_suspected(node, self._own)
                    and id in self._here
                    and (id == self._own or host_monitor.answers(id))
                ):
                    await self._restore(id)

    async def _restore(self, id: NodeId) -> None:
        try:
            await transact(
                self._store,
                lambda state: believed(state, id, self._own, self._clock()),
                independent=True,
            )
        except (WeftError, OSError) as cause:
            log.warning("node.not_believed node=%s cause=%s", id, cause)

    def _is(self, id: NodeId, status: NodeStatus) -> bool:
        node = self._store.state.nodes.get(id)
        return node is not None and node.status == status

    async def _suspect(
        self, statuses: Mapping[NodeId, NodeStatus], still: Callable[[], bool] = lambda: True
    ) -> None:
        """Suspects the nodes that still have these statuses. `still` is called at each attempt to
        commit."""

        def decide(state: ClusterState) -> list[Change]:
            now = self._clock()
            suspects = statuses.items() if still() else ()
            return [change for id, was in suspects for change in suspected(state, id, was, now)]

        await transact(self._store, decide, independent=True)


def addresses(state: ClusterState, node: Node) -> tuple[IPv4Address, ...]:
    """Addresses at which the kernel of the node answers: its data path address, and its address on
    the ingress network."""
    ingress = state.ingress
    legs = (
        leg.address.ip
        for leg in node.attachments
        if ingress is not None and leg.network == ingress.id
    )
    own = (node.data_path_address,) if node.data_path_address is not None else ()
    return (*own, *legs)


def suspected(
    state: ClusterState, id: NodeId, status: NodeStatus, now: Nanoseconds
) -> list[Change]:
    """`status`: the node's status when it was lost. No changes if the node has another status
    now."""
    node = state.nodes.get(id)
    if node is None or node.status != status:
        return []
    log.warning("node.suspected node=%s hostname=%s", id, node.description.hostname)
    changed = msgspec.structs.replace(
        node.status, state=NodeState.DISCONNECTED, message="its host does not answer", since=now
    )
    return [Put(msgspec.structs.replace(node, status=changed))]


def is_suspected(node: Node, manager: NodeId) -> bool:
    """The node is suspect, and its session, if it has one, is with `manager`."""
    status = node.status
    is_silent = status.state is NodeState.DISCONNECTED and status.message != HOST_STOPS
    return is_silent and status.manager == manager


def believed(state: ClusterState, id: NodeId, manager: NodeId, now: Nanoseconds) -> list[Change]:
    node = state.nodes.get(id)
    if node is None or not is_suspected(node, manager):
        return []
    log.info("node.believed node=%s hostname=%s", id, node.description.hostname)
    return [
        Put(
            msgspec.structs.replace(
                node,
                status=msgspec.structs.replace(
                    node.status, state=NodeState.READY, message="", since=now
                ),
            )
        )
    ]
