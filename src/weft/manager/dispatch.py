"""Serves the agents: keeps their sessions, sends each node its assignment, and notes when each node
was last heard.

    Hello            the node is READY, with its description and addresses      (committed)
    Welcome          how often to send heartbeats, which managers there are
    AssignmentUpdate first the whole assignment, then differences
    StatusUpdate     to `statuses.py`, which commits and answers
    anything         the node is alive (`liveness.py`)

Any manager serves any agent, from its own copy of the state. Before a manager serves an agent, it
makes sure that the copy is as new as the store. Otherwise the copy could be older than what the
agent got from its last manager. A manager without quorum serves nobody: its agents find another
manager, or keep what they have.

One task watches the store. When the store has been quiet for a moment, this task updates the views
of the networks once for all nodes, and offers a new assignment to each node that may see a
difference. Each session has its own task, which sends the assignment (`session.py`)."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

import msgspec

from weft.control import revocation
from weft.control.assignments.affected import concerned
from weft.control.assignments.assignment import Opened, assignment_for
from weft.control.assignments.differences import Memo
from weft.control.assignments.views import Views, network_views
from weft.control.requests.nodes import farewell
from weft.errors import FailedPrecondition, Forbidden, Unavailable
from weft.manager.certificates import Certificates, known_peer, shown
from weft.manager.incoming import address_owners, check_epoch, checked
from weft.manager.liveness import Liveness, grace, steady
from weft.manager.registry_auths import RegistryAuths
from weft.manager.session import AgentLink
from weft.manager.statuses import Report, StatusWriter, merged
from weft.manager.suspicion import Suspicion
from weft.manager.transaction import transact
from weft.manager.vault import Vault
from weft.model.certificate import ManagerCertificate
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeState, NodeStatus
from weft.model.state import KINDS, Change, ClusterState, Event, Put, cluster_of
from weft.session.base import ManagerSession, SessionClosed
from weft.session.messages import (
    CertificateRequest,
    Farewell,
    Hello,
    IssuedCertificate,
    Managers,
    Publish,
    Revoked,
    Welcome,
)
from weft.store.base import Store
from weft.system.rate import TokenBuckets

log = logging.getLogger(__name__)

HELLO_TIMEOUT = 10.0
"""Seconds from the connection to the agent's first message."""
QUIET = 0.02
MOST_WAIT = 0.1
"""Seconds. Changes are sent when none has come for `QUIET`, or when the oldest has waited for
`MOST_WAIT`."""
CLOSE_TIMEOUT = 2.0
FIRST_AT_ONCE = 32
"""Agents that get their first assignment, which is large, at the same time. When a manager is lost
and a thousand agents come at once, all are heard first and served in turn, so no assignments pile
up in buffers."""

SESSIONS_RATE, SESSIONS_BURST, SESSIONS_KNOWN = 1.0, 30.0, 10_000
"""Sessions that one node may begin per second, and after a quiet time: each costs a commit and a
whole assignment. `SESSIONS_KNOWN`: nodes for which this is remembered."""
RETRY = 1.0
HEALTH_PERIOD = 0.5
WITHOUT_MAJORITY = 3.0
"""Seconds that sessions last without quorum, where etcd's election timeout is one second. The
election of a leader takes two, and is no reason to send all agents away."""


class Superseded(Unavailable):
    """The node has opened another session."""


@dataclass(frozen=True, kw_only=True)
class SessionParts:
    """The parts of the manager that sessions need."""

    liveness: Liveness
    statuses: StatusWriter
    certificates: Certificates
    suspicion: Suspicion
    vault: Vault
    registry_auths: RegistryAuths


class Dispatcher:
    def __init__(
        self,
        own: NodeId,
        store: Store,
        clock: Callable[[], Nanoseconds],
        parts: SessionParts,
        without_majority: float = WITHOUT_MAJORITY,
    ) -> None:
        """`own`: the manager's node. `without_majority`: see `WITHOUT_MAJORITY`."""
        self._without_majority = without_majority
        self._own = own
        self._store = store
        self._clock = clock
        self._liveness = parts.liveness
        self._statuses = parts.statuses
        self._certificates = parts.certificates
        self._suspicion = parts.suspicion
        self._opened = Opened(parts.vault.payload, parts.registry_auths.opened)
        parts.vault.on_key(self._begin_anew)
        self._links: dict[NodeId, AgentLink] = {}
        self._changes = store.subscribe(KINDS)
        self._gathered: list[Event] = []
        self._turns = asyncio.Semaphore(FIRST_AT_ONCE)
        self._begun = TokenBuckets(SESSIONS_RATE, SESSIONS_BURST, SESSIONS_KNOWN)
        """Limits how often each node begins a session."""
        self._new: set[NodeId] = set()
        """Nodes with a session that was not yet offered an assignment."""
        self._managers: Managers | None = None
        """The managers that all sessions were last told of."""
        self._revoked: Revoked | None = None
        """The same for revoked certificates."""
        self._views: Views | None = None
        """None: not computed yet, or discarded after an error."""

    def close(self) -> None:
        """Ends every session."""
        self._changes.close()
        self._end_all("the manager is stopping")

    @property
    def sessions(self) -> int:
        """Nodes with a session with this manager."""
        return len(self._links)

    @property
    def behind(self) -> int:
        """Of these, the nodes that were not sent their newest assignment yet."""
        return sum(link.is_behind for link in self._links.values())

    # --- sessions

    async def serve(self, session: ManagerSession) -> None:
        """Serves a session until it ends. Raises `SessionClosed` when the agent is gone,
        `Forbidden` for a node that is not part of the swarm or was removed from it,
        `FailedPrecondition` for a node that knows a later epoch than this manager."""
        node, now = session.peer.node, asyncio.get_running_loop().time()
        if not self._begun.allows(node, now):
            raise Unavailable(f"cannot open session: node {node} opens sessions too often")
        hello = await _hello(session)
        await self._store.sync()
        cluster = cluster_of(self._store.state)
        check_epoch(cluster, hello.epoch)
        self._liveness.arrived(node, cluster.spec, steady())
        await transact(
            self._store,
            lambda state: ready(state, hello, session, self._own, self._clock(), self._links),
            independent=True,
        )
        link = AgentLink(
            session,
            hello.trusted,
            self._statuses,
            self._heard,
            partial(self._certify, node),
            self._turns,
            partial(self._part, node),
        )
        link.publishes = frozenset(hello.publishes)
        log.info(
            "session.opened node=%s hostname=%s address=%s",
            node,
            hello.description.hostname,
            session.address,
        )
        try:
            self._register(link)
            state = self._store.state
            await link.run(_welcome(state), grace(cluster_of(state).spec))
        except Superseded as cause:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await session.close(str(cause))
        except SessionClosed as cause:
            log.info("session.lost node=%s cause=%s", node, cause)
            raise
        finally:
            if self._links.get(node) is link:
                del self._links[node]
                self._suspicion.lost(node)
            log.info("session.closed node=%s", node)

    def tell(self, node: NodeId, publish: Publish) -> None:
        """See `manager.broker.Tell`."""
        link = self._links.get(node)
        if link is None:
            raise FailedPrecondition(f"node {node} has no session with this manager")
        link.ask(publish)

    def _register(self, link: AgentLink) -> None:
        """A newer session of a node replaces the older one, whose end may have gone unnoticed."""
        old = self._links.get(link.node)
        if old is not None:
            old.end(Superseded(f"superseded by a newer session of node {link.node}"))
        self._links[link.node] = link
        self._new.add(link.node)
        self._suspicion.back(link.node)
        self._publish()
        self._notice(self._store.state, [link.node])

    async def _certify(self, node: NodeId, request: CertificateRequest) -> IssuedCertificate:
        return await self._certificates.answer(self._store, node, request)

    async def _part(self, node: NodeId, said: Farewell) -> None:
        await transact(
            self._store,
            lambda state: farewell(state, node, said, self._clock()),
            independent=True,
        )
        log.info("node.farewell node=%s farewell=%s", node, said)

    def _heard(self, link: AgentLink) -> None:
        """Notes that a node is alive. A node that speaks without being READY must say hello again
        first: while it was DOWN, other nodes may have got its tasks."""
        state, id = self._store.state, link.node
        self._liveness.heard(id, cluster_of(state).spec, steady())
        node = state.nodes.get(id)
        is_ready = node is not None and node.status.state is NodeState.READY
        if node is not None and not (is_ready or link.is_parting):
            link.end(SessionClosed(f"node {id} was found {node.status.state}"))

    def _end_all(self, why: str) -> None:
        for link in self._links.values():
            link.end(SessionClosed(why))

    # --- changes

    async def watch_health(self) -> None:
        """Runs until cancelled. Ends all sessions when this manager has been without quorum for
        `WITHOUT_MAJORITY` seconds."""
        unhealthy = 0.0
        while True:
            unhealthy = 0.0 if self._store.is_healthy else unhealthy + HEALTH_PERIOD
            if unhealthy > self._without_majority and self._links:
                log.warning("dispatch.no_majority sessions=%d", len(self._links))
                self._end_all("this manager has lost the majority of the managers")
            await asyncio.sleep(HEALTH_PERIOD)

    async def run(self) -> None:
        """Runs until cancelled. Logs each failure, and begins again with a full computation."""
        while True:
            try:
                if self._views is not None:
                    await self._gather()
                self._publish()
            except Exception:
                log.exception("dispatch.failed retry_after=%ss", RETRY)
                await asyncio.sleep(RETRY)

    async def _gather(self) -> None:
        """Waits for changes, and then until no more come for a moment."""
        self._gathered += await self._changes.next()
        clock = asyncio.get_running_loop().time
        end = clock() + MOST_WAIT
        while (left := end - clock()) > 0:
            try:
                async with asyncio.timeout(min(QUIET, left)):
                    self._gathered += await self._changes.next()
            except TimeoutError:
                return

    def _begin_anew(self) -> None:
        """Makes every assignment again: there is a key for secrets that could not be opened."""
        self._views = None
        self._publish()

    def _publish(self) -> None:
        """Offers the present state to all nodes that may see a difference. There is no await in
        here: events, views and state must belong together."""
        state = self._store.state
        events = [*self._gathered, *self._changes.take()]
        self._gathered = []
        previous, self._views = self._views, None
        views = network_views(state, previous, events)
        who = concerned(state, events, previous or {}, views)
        everybody = previous is None or who.everybody
        memo = Memo()
        for id in self._links if everybody else who.tasks | who.networks | self._new:
            link = self._links.get(id)
            if link is None:
                continue
            if id not in state.nodes:
                link.end(Forbidden(f"node {id} was removed from the swarm"))
                continue
            known = link.newest
            same = known if previous is not None and id not in who.tasks else None
            try:
                link.offer(assignment_for(state, id, views, same, self._opened), memo)
            except Exception:
                log.exception("dispatch.not_assigned node=%s", id)
                link.end(SessionClosed(f"cannot make the assignment of node {id}: internal error"))
        self._new.clear()
        changed = {event.kind for event in events}
        if previous is None or "cluster" in changed:
            self._notice(state, self._links)
        elif "node" in changed:
            self._notice(state, [event.object.id for event in events if event.kind == "node"])
        self._views = views

    def _notice(self, state: ClusterState, nodes: Iterable[str]) -> None:
        """Tells agents what has changed since their sessions began: `nodes` about their
        certificates, all agents about the managers and their revoked certificates."""
        for id in nodes:
            link = self._links.get(NodeId(id))
            if link is None:
                continue
            try:
                known_peer(state, link.peer)
            except Forbidden as cause:
                link.end(cause)
                continue
            due = self._certificates.due(state, link.node, link.peer, link.trusted)
            if due is not None:
                link.notice(due)
        managers = Managers(manager_addresses(state))
        if managers != self._managers:
            self._managers = managers
            for link in self._links.values():
                link.notice(managers)
        revoked = Revoked(cluster_of(state).revoked)
        if revoked != self._revoked:
            self._revoked = revoked
            for link in self._links.values():
                link.notice(revoked)


def _welcome(state: ClusterState) -> Welcome:
    cluster = cluster_of(state)
    return Welcome(
        heartbeat=cluster.spec.heartbeat,
        managers=manager_addresses(state),
        epoch=cluster.epoch,
        revoked=cluster.revoked,
        takes_farewells=True,
    )


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
        raise Forbidden(
            f"cannot open session: node {hello.node} is not {peer}, whose certificate it has"
        )
    return checked(hello, session.address)


def ready(
    state: ClusterState,
    hello: Hello,
    session: ManagerSession,
    own: NodeId,
    now: Nanoseconds,
    connected: Collection[NodeId] = (),
) -> list[Change]:
    """The changes when a node says hello to the manager `own`: the node itself, and its tasks that
    have ended. `connected`: nodes with a session with `own`. Raises `Forbidden` if the node is not
    part of the swarm or its certificate was revoked, `InvalidArgument` if its address belongs to
    another node. If that other node is no longer believed, it becomes DOWN instead."""
    peer = session.peer
    node = known_peer(state, peer)
    is_manager = peer.role == "manager" and peer.serial
    certificate = ManagerCertificate(peer.serial, peer.expires) if is_manager else None
    node_with, revoked = revocation.shown(state, node, certificate)
    data_path = IPv4Address(hello.data_path_address)
    displaced = address_owners(state, node.id, data_path, connected, session.address)
    status = NodeStatus(NodeState.READY, address=session.address, manager=own, since=now)
    if node.status.state is NodeState.READY:
        status = msgspec.structs.replace(status, since=node.status.since)
    after = msgspec.structs.replace(
        node_with,
        description=hello.description,
        status=status,
        data_path_address=data_path,
        routes=hello.routes,
        underlay_mtu=hello.underlay_mtu,
        certificate=shown(session.peer, hello.trusted),
    )
    others = [Put(_displaced(state.nodes[id], node.id, now)) for id in displaced]
    ended = merged(state, [Report(node.id, hello.ended)])
    return [*others, *([Put(after)] if after != node else []), *revoked, *ended]


def _displaced(node: Node, by: NodeId, now: Nanoseconds) -> Node:
    log.warning("node.displaced node=%s by=%s address=%s", node.id, by, node.data_path_address)
    message = f"its data path address is that of node {by}"
    return msgspec.structs.replace(
        node, status=NodeStatus(NodeState.DOWN, message=message, since=now)
    )


def manager_addresses(state: ClusterState) -> tuple[tuple[NodeId, str], ...]:
    """(id, host:port) of all managers."""
    return tuple(
        (node.id, node.manager_address) for node in state.nodes.values() if node.manager_address
    )
