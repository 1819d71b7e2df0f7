"""Serves the agents: who is connected, what each must know, and since when nobody has heard of it.

    Hello            the node is READY, with its description and addresses      (committed)
    Welcome          how often to send heartbeats, which managers there are
    AssignmentUpdate first the whole assignment, then differences
    StatusUpdate     to `statuses.py`, which commits and answers
    anything         the node is alive (`liveness.py`)

One task watches the store. When it has been quiet for a moment, the views of the networks are brought up to date once for all
nodes, and each node that may see a difference is offered its new assignment; its own task sends it (`session.py`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv4Address

import msgspec

from weft.cluster.base import ManagerSession, SessionClosed
from weft.cluster.messages import Hello, Welcome
from weft.control.dispatcher import Memo, Views, assignment_for, network_views
from weft.errors import Forbidden, Unavailable
from weft.manager.liveness import Liveness, grace
from weft.manager.session import AgentLink
from weft.manager.statuses import StatusWriter
from weft.manager.touched import touched
from weft.manager.transaction import cluster_of, transact
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import NodeState, NodeStatus
from weft.model.state import KINDS, Change, ClusterState, Event, Put
from weft.store.base import Store

log = logging.getLogger(__name__)

HELLO_TIMEOUT = 10.0
"""Seconds from the connection to the agent's first message."""
QUIET = 0.02
MOST_WAIT = 0.1
"""Seconds: changes are sent when none has come for the first of these, or when the oldest has waited for the second."""
CLOSE_TIMEOUT = 2.0


RETRY = 1.0


class Superseded(Unavailable):
    """The node has opened another session."""


class Dispatcher:
    def __init__(
        self, store: Store, clock: Callable[[], Nanoseconds], liveness: Liveness, statuses: StatusWriter
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._liveness = liveness
        self._statuses = statuses
        self._links: dict[NodeId, AgentLink] = {}
        self._routes: dict[NodeId, tuple[str, ...]] = {}
        self._changes = store.subscribe(KINDS)
        self._gathered: list[Event] = []
        self._views: Views | None = None
        """None: not computed yet, or not to be trusted."""

    @property
    def routes(self) -> Mapping[NodeId, tuple[str, ...]]:
        """Subnets that each host said it has routes to, when it last connected."""
        return self._routes

    def close(self) -> None:
        """Ends every session."""
        self._changes.close()
        for link in self._links.values():
            link.end(SessionClosed("the manager is stopping"))

    # --- sessions

    async def serve(self, session: ManagerSession) -> None:
        """For as long as the session lasts. Raises `SessionClosed` when the agent is gone, `Forbidden` for a node that is
        not part of the swarm or has been removed from it."""
        hello = await _hello(session)
        node, spec = hello.node, cluster_of(self._store.state).spec
        await transact(self._store, lambda state: ready(state, hello, session.address, self._clock()))
        self._liveness.heard(node, spec, self._clock())
        link = AgentLink(session, self._statuses, lambda: self._heard(node))
        self._register(link, hello)
        log.info("session.opened node=%s hostname=%s address=%s", node, hello.description.hostname, session.address)
        try:
            await link.run(Welcome(heartbeat=spec.heartbeat, managers=manager_addresses(self._store.state)), grace(spec))
        except Superseded as cause:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await session.close(str(cause))
        finally:
            if self._links.get(node) is link:
                del self._links[node]
            log.info("session.closed node=%s", node)

    def _register(self, link: AgentLink, hello: Hello) -> None:
        """The node's newer session takes the place of the older one, whose end nobody may have noticed."""
        old = self._links.get(link.node)
        if old is not None:
            old.end(Superseded(f"superseded by a newer session of node {link.node}"))
        self._links[link.node] = link
        self._routes[link.node] = hello.routes
        self._publish()

    def _heard(self, id: NodeId) -> None:
        """A node that speaks although it was found DOWN says hello again first: others may have got its tasks."""
        state = self._store.state
        self._liveness.heard(id, cluster_of(state).spec, self._clock())
        node = state.nodes.get(id)
        if node is not None and node.status.state is not NodeState.READY:
            self._links[id].end(SessionClosed(f"node {id} was found {node.status.state}"))

    # --- changes

    async def run(self) -> None:
        """Until cancelled. What goes wrong is logged and tried again from the beginning."""
        while True:
            try:
                if self._views is not None:
                    await self._gather()
                self._publish()
            except Exception:
                log.exception("dispatch.failed retry_after=%ss", RETRY)
                await asyncio.sleep(RETRY)

    async def _gather(self) -> None:
        """Waits for changes, and then until there are no more of them for a moment."""
        self._gathered += await self._changes.next()
        clock = asyncio.get_running_loop().time
        end = clock() + MOST_WAIT
        while (left := end - clock()) > 0:
            try:
                async with asyncio.timeout(min(QUIET, left)):
                    self._gathered += await self._changes.next()
            except TimeoutError:
                return

    def _publish(self) -> None:
        """Offers the state as it is now to all nodes that may see a difference. Without an await: events, views and state
        belong together."""
        state = self._store.state
        events = [*self._gathered, *self._changes.take()]
        self._gathered = []
        previous, self._views = self._views, None
        views = network_views(state, previous, events)
        concerned = touched(events, state)
        ingress = {state.ingress.id} if state.ingress else set()
        memo: Memo = {}
        for id, link in list(self._links.items()):
            known = link.newest
            if id not in state.nodes:
                link.end(Forbidden(f"node {id} was removed from the swarm"))
            elif (
                previous is None
                or known is None
                or id in concerned.nodes
                or not concerned.networks.isdisjoint(known.networks.keys() | ingress)
            ):
                same = known.tasks if known is not None and previous is not None and id not in concerned.nodes else None
                link.offer(assignment_for(state, id, views, same), memo)
        self._views = views


async def _hello(session: ManagerSession) -> Hello:
    peer = session.peer.node
    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            hello = await session.receive()
    except TimeoutError:
        raise SessionClosed(f"node {peer} did not say hello within {HELLO_TIMEOUT:g} s") from None
    if not isinstance(hello, Hello):
        raise SessionClosed(f"node {peer} sent {type(hello).__name__} before its hello")
    if hello.node != peer:
        raise Forbidden(f"cannot open session: node {hello.node} is not {peer}, whose certificate it has")
    return hello


def ready(state: ClusterState, hello: Hello, address: str, now: Nanoseconds) -> list[Change]:
    """The node as it says hello. Raises `Forbidden` if it is not part of the swarm, `SessionClosed` for a bad address."""
    node = state.nodes.get(hello.node)
    if node is None:
        raise Forbidden(f"node {hello.node} is not part of the swarm")
    try:
        data_path = IPv4Address(hello.data_path_address)
    except AddressValueError as error:
        raise SessionClosed(f"cannot open session: data path address {hello.data_path_address!r}: {error}") from error
    was_ready = node.status.state is NodeState.READY and node.status.address == address
    status = node.status if was_ready else NodeStatus(NodeState.READY, address=address, since=now)
    after = msgspec.structs.replace(node, description=hello.description, status=status, data_path_address=data_path)
    return [Put(after)] if after != node else []


def manager_addresses(state: ClusterState) -> tuple[tuple[NodeId, str], ...]:
    """(id, host:port) of all managers."""
    return tuple((node.id, node.manager_address) for node in state.nodes.values() if node.manager_address)
