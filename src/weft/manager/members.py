"""Adds etcd members for new managers, and removes the members of former managers.

    worker to manager   enlist: adds a learner, which has no vote ─▶ admit_vote, when the learner
                        has caught up
    manager to worker   The node's certificates are revoked. Every manager makes its own etcd member
                        refuse them, and notes that in its own node. Then the leader removes the
                        former manager's etcd member, and notes that in the node: only from then on
                        is the node a worker in effect, and gets a worker's certificate

The leader does not wait for a manager that is out of reach: that manager refuses the certificates
as soon as it sees the others again. A store on one manager, or in an external etcd, has no members
of ours: its `Kv` is `None`. A member is known by the URL at which it listens for the others: it has
no name before its first start."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from weft.control.requests.nodes import departure
from weft.errors import FailedPrecondition, Unavailable, WeftError
from weft.manager.certificates import known_manager
from weft.manager.incoming import check_epoch
from weft.manager.transaction import transact
from weft.model.certificate import ManagerCertificate
from weft.model.ids import NodeId
from weft.model.node import Node
from weft.model.state import Change, ClusterState, Kind, Put, cluster_of
from weft.session.base import Identity, MemberGrant, MemberRequest
from weft.store.base import Leadership, Store
from weft.store.etcd.base import Kv
from weft.store.etcd.base import Member as StoreMember

log = logging.getLogger(__name__)

RETRY = 1.0
DOOR_PATIENCE = 10.0
"""Seconds for the managers in reach to refuse the revoked certificates. After that the leader
removes the etcd member all the same."""
DOOR_LOOK = 0.5
"""Seconds between two checks whether they do."""
ALONE = (
    "cannot take in a manager: the swarm's state is still kept by one manager alone; try again in a"
    " moment"
)


Refuse = Callable[[Sequence[ManagerCertificate], ClusterState], Awaitable[None]]
"""Makes this manager's etcd member refuse these certificates, and no others. When this returns, no
connection made with one of them is left. Raises `OperationFailed`."""


async def no_door(_: Sequence[ManagerCertificate], __: ClusterState) -> None:
    """The `Refuse` of a store that has no members of ours."""


class Membership:
    """`own`: the node of this manager. `no_members`: the error text where there is no `kv`."""

    def __init__(
        self,
        own: NodeId,
        store: Store,
        leadership: Leadership,
        kv: Kv | None,
        no_members: str = ALONE,
        refuse: Refuse = no_door,
    ) -> None:
        self._own = own
        self._store = store
        self._leadership = leadership
        self._kv = kv
        self._no_members = no_members
        self._refuse = refuse

    async def enlist(self, peer: Identity, request: MemberRequest) -> MemberGrant:
        """See `session.base.Manager`."""
        await self._store.sync()
        known_manager(self._store.state, peer)
        check_epoch(cluster_of(self._store.state), request.epoch)
        kv = self._required()
        await transact(
            self._store, lambda state: _enlistment(state, peer, request.peer_url), independent=True
        )
        if all(request.peer_url not in member.peer_urls for member in await kv.members()):
            await kv.add_learner(request.peer_url)
            log.info("member.added node=%s peer=%s", peer.node, request.peer_url)
        nodes = {
            node.store_peer: node.id for node in self._store.state.nodes.values() if node.store_peer
        }
        urls = [url for member in await kv.members() for url in member.peer_urls]
        peers = tuple((nodes.get(url, ""), url) for url in urls)
        return MemberGrant(peers=peers, revoked=cluster_of(self._store.state).revoked)

    async def admit_vote(self, peer: Identity) -> None:
        """See `session.base.Manager`."""
        await self._store.sync()
        node = known_manager(self._store.state, peer)
        kv = self._required()
        for member in await kv.members():
            if node.store_peer in member.peer_urls:
                if member.is_learner:
                    await kv.promote(member.id)
                    log.info("member.votes node=%s", node.id)
                return
        raise FailedPrecondition(f"node {node.id} has no part of the store")

    async def keep_door(self) -> None:
        """Runs until cancelled, on every manager: makes its etcd member refuse revoked
        certificates."""
        if self._kv is None:
            return
        kinds: tuple[Kind, ...] = ("cluster",)
        changes = self._store.subscribe(kinds)
        refused: tuple[ManagerCertificate, ...] | None = None
        try:
            while True:
                try:
                    cluster = cluster_of(self._store.state)
                    if cluster.revoked != refused:
                        await self._refuse(cluster.revoked, self._store.state)
                        refused = cluster.revoked
                        log.info("member.refuses certificates=%d", len(refused))
                    said = partial(_refusing, own=self._own, revocations=cluster.revocations)
                    await transact(self._store, said, independent=True)
                except Unavailable:  # without quorum no member is removed
                    await asyncio.sleep(RETRY)
                except WeftError as error:
                    log.warning("member.door_open cause=%s", error)
                    await asyncio.sleep(RETRY)
                else:
                    await changes.next()
        finally:
            changes.close()

    async def run(self) -> None:
        """Runs until cancelled, on the leader: removes the etcd members of nodes that are no longer
        managers."""
        kinds: tuple[Kind, ...] = ("node",)
        changes = self._store.subscribe(kinds)
        settled: object = None
        try:
            while True:
                wanted = _roles(self._store.state)
                if wanted == settled:
                    await changes.next()
                    continue
                try:
                    await self._settle()
                    settled = wanted
                except WeftError as error:
                    log.warning("member.not_removed cause=%s", error)
                    await asyncio.sleep(RETRY)
        finally:
            changes.close()

    async def _settle(self) -> None:
        """Reads the members first, then the state. A node is written before its member is added, so
        each member read here has its node in the state."""
        found = await self._kv.members() if self._kv is not None else ()
        await self._store.sync()
        nodes = self._store.state.nodes
        if _is_leaving(nodes.get(self._own)):
            await self._leadership.resign()
            raise FailedPrecondition("this manager is to be a worker: another one must lead first")
        if found and any(map(_is_leaving, nodes.values())):
            await self._until_refused()
        nodes = self._store.state.nodes
        keep = {node.store_peer for node in nodes.values() if not _is_leaving(node)}
        standing, trouble = await self._remove([m for m in found if keep.isdisjoint(m.peer_urls)])
        for node in [node for node in nodes.values() if _is_leaving(node)]:
            if node.store_peer not in standing:
                await transact(self._store, partial(departure, id=node.id), independent=True)
        if trouble is not None:
            raise trouble

    async def _remove(self, members: Sequence[StoreMember]) -> tuple[set[str], WeftError | None]:
        """Removes these members; gives the URLs of those that are still there, and why. One that
        cannot be removed does not keep the others in: while a member is out of reach, etcd removes
        that one only."""
        standing: set[str] = set()
        trouble: WeftError | None = None
        for member in members:
            try:
                await self._required().remove_member(member.id)
                log.info("member.removed name=%s peers=%s", member.name, ",".join(member.peer_urls))
            except WeftError as error:
                standing.update(member.peer_urls)
                trouble = trouble or error
        return standing, trouble

    async def _until_refused(self) -> None:
        """Waits until all remaining managers in reach refuse the revoked certificates. The wait is
        limited: a manager that hangs must not keep a departing member in."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DOOR_PATIENCE):
                while _open_doors(self._store.state, self._leadership.leadership_status.present):
                    await asyncio.sleep(DOOR_LOOK)
                return
        late = _open_doors(self._store.state, self._leadership.leadership_status.present)
        log.warning("member.not_refused managers=%s", ",".join(sorted(late)))

    def _required(self) -> Kv:
        if self._kv is None:
            raise FailedPrecondition(self._no_members)
        return self._kv


def _roles(state: ClusterState) -> frozenset[tuple[NodeId, str, str]]:
    """All that decides which nodes are to have an etcd member."""
    return frozenset(
        (n.id, n.spec.role, n.store_peer)
        for n in state.nodes.values()
        if "manager" in (n.role, n.spec.role)
    )


def _is_leaving(node: Node | None) -> bool:
    return node is not None and node.spec.role == "worker" and node.role == "manager"


def _open_doors(state: ClusterState, present: Collection[NodeId]) -> set[NodeId]:
    """Managers in reach whose etcd member does not yet refuse all revoked certificates."""
    wanted = cluster_of(state).revocations
    staying = (node for node in state.nodes.values() if node.store_peer and not _is_leaving(node))
    return {node.id for node in staying if node.id in present and node.refuses < wanted}


def _refusing(state: ClusterState, own: NodeId, revocations: int) -> list[Change]:
    node = state.nodes.get(own)
    if node is None or node.refuses == revocations:
        return []
    return [Put(msgspec.structs.replace(node, refuses=revocations))]


def _enlistment(state: ClusterState, peer: Identity, peer_url: str) -> list[Change]:
    node = known_manager(state, peer)
    return (
        []
        if node.store_peer == peer_url
        else [Put(msgspec.structs.replace(node, store_peer=peer_url))]
    )
