"""This host's etcd member of the store that several managers share: how the host gets it, gives it
up, and closes it to revoked certificates."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from weft.daemon.manager_host import DATABASE, ManagerHost
from weft.errors import FailedPrecondition, OperationFailed
from weft.linux import connections
from weft.model.certificate import ManagerCertificate
from weft.model.cluster import PEER_PORT
from weft.model.ids import NodeId
from weft.model.state import ClusterState
from weft.session.base import MemberRequest
from weft.session.client import MemberClient
from weft.store.etcd.process import EtcdMember
from weft.system.supervision import ended

log = logging.getLogger(__name__)

RESTART_PAUSE = 5.0
"""Seconds between the members' restarts for a new root: several times the duration of a restart."""
VOTE_PAUSE = 0.2
"""Seconds between two attempts to get a vote; the time to catch up grows with the state."""


async def join_store(host: ManagerHost, managers: MemberClient) -> None:
    """Returns when this host's etcd member votes. Safe to call again, whatever the result of the
    last call."""
    etcd = host.etcd()
    try:
        request = MemberRequest(
            peer_url=host.settings.peer_url,
            manager_address=host.manager_address,
            epoch=host.member().epoch,
        )
        grant = await managers.enlist(request)
        etcd.refuse(certificate.serial for certificate in grant.revoked)
        await etcd.start(grant.peers)
        while True:
            try:
                await managers.admit_vote()
                return
            except FailedPrecondition:
                await asyncio.sleep(VOTE_PAUSE)
    finally:
        await etcd.close()


async def leave_store(host: ManagerHost) -> None:
    """Wipes this host's etcd member, which is of no use any more. Also works if etcd is no longer
    installed."""
    etcd = EtcdMember(host.settings)
    try:
        await etcd.wipe()
    finally:
        await etcd.close()


def forget_database(host: ManagerHost) -> None:
    for suffix in ("", "-wal", "-shm"):
        host.database.with_name(DATABASE + suffix).unlink(missing_ok=True)


class Door:
    """The access to this host's etcd member: closed to revoked certificates."""

    def __init__(
        self,
        host: ManagerHost,
        etcd: EtcdMember,
        end: Callable[[IPv4Address, int], int] = connections.end_accepted,
    ) -> None:
        """`end`: ends all connections to an address and port."""
        self._host = host
        self._etcd = etcd
        self._end = end
        self._was_seen_to = False
        self._restarting: asyncio.Task[None] | None = None

    async def refuse(self, certificates: Sequence[ManagerCertificate], state: ClusterState) -> None:
        """`manager.members.Refuse`. All connections are ended, since etcd does not say whose they
        are; allowed peers reconnect within a fraction of an election. If the kernel cannot end
        connections, etcd is restarted in turn."""
        is_new = self._etcd.refuse(certificate.serial for certificate in certificates)
        # The last daemon may have been killed after it had written the list.
        is_first = bool(certificates) and not self._was_seen_to
        self._was_seen_to = True
        if not (is_new or is_first):
            return
        own = self._host.member()
        try:
            await asyncio.to_thread(self._end, own.advertise_address, PEER_PORT)
        except OperationFailed as cause:
            log.warning("store.connections_stand cause=%s", cause)
            if not is_new:
                return
            await self.close()
            turn = restart_in_turn(self._etcd, state, own.node, "certificates were revoked")
            self._restarting = asyncio.create_task(turn, name="door")

    async def close(self) -> None:
        if self._restarting is not None:
            await ended(self._restarting)


async def restart_in_turn(etcd: EtcdMember, state: ClusterState, own: NodeId, cause: str) -> None:
    """Restarts etcd when all managers do so at the same time: one after the other, so that there is
    always a quorum."""
    managers = sorted(node.id for node in state.nodes.values() if node.store_peer)
    await asyncio.sleep(RESTART_PAUSE * (1 + managers.index(own)) if own in managers else 0)
    await etcd.restart()
    log.info("store.restarted cause=%s", cause)
