"""A manager's seat: what a node has for as long as it is a manager. A store, its place among the managers, the control loops, and
the listener for sessions.

    alone     the embedded store; this manager leads
    among     a part of the store that all managers share, run by this host; one of them leads
    move      from the first to the second, when another node is to be a manager: everything is copied, and the embedded store goes
              only when the copy is whole
    join      a part of the store for a node that is to be a manager
    elsewhere a store in an etcd that somebody else runs; as `among`, but there are no parts to be given or taken

Wiring only. The store and what belongs to it are opened here and closed with the seat; the store's own process goes on.
"""

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from weft.control.allocator.ports import NO_PORTS, OwnPorts
from weft.daemon.outlived import later_epoch
from weft.errors import Damaged, FailedPrecondition, NotFound, OperationFailed, Unavailable, WeftError
from weft.linux import connections, ping
from weft.manager import certificates
from weft.manager.authority import PkiAuthority
from weft.manager.manager import Manager
from weft.manager.members import ALONE, Refuse, no_door
from weft.model.certificate import ManagerCertificate
from weft.model.cluster import PEER_PORT
from weft.model.ids import ClusterId, NodeId
from weft.model.state import ClusterState, Kind
from weft.session.base import MemberRequest
from weft.session.client import EpochClient, MemberClient
from weft.session.identity import Credentials, Member, Wallet
from weft.session.logs import ManagerRelay
from weft.session.server import SessionServer
from weft.store.base import Leadership, Store
from weft.store.etcd import migrate
from weft.store.etcd.base import Kv
from weft.store.etcd.client import GatewayClient
from weft.store.etcd.elsewhere import Elsewhere
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.leadership import EtcdLeadership
from weft.store.etcd.process import EtcdMember, MemberEnded, MemberSettings
from weft.store.etcd.space import keep_free
from weft.store.kept import Keeper, KeptState
from weft.store.sole import SoleLeader
from weft.store.sqlite import SqliteStore
from weft.system.supervision import contained
from weft.system.waiting import first

log = logging.getLogger(__name__)

DATABASE = "store.db"
ELSEWHERE = (
    "cannot take in a manager: the swarm's state is in {store}, which its daemon must be told: set store in its configuration"
)
LOST = "cannot open the swarm's state {where}: {why}. Nothing was changed there. {advice}"
RESTORE = (
    "This node is the swarm's only manager: stop the daemon and restore a backup of {data}, or give the swarm up: "
    "docker swarm leave --force"
)
REJOIN = (
    "Where there are other managers, demote this node at one of them and promote it again; else stop the daemon and restore a backup, "
    "or give the swarm up: docker swarm leave --force"
)
NO_ETCD = "etcd is not installed on this host (Debian's package etcd-server)"
RESTART_PAUSE = 5.0
"""Seconds between the members' restarts for a new root: several times what one takes."""
ARRIVE_PAUSE = 1.0
ANSWER_PATIENCE = 3.0
"""Seconds for a member of etcd that was started to find a majority, for which it needs an election or two."""
PROBE_SECONDS, PROBE_ATTEMPTS = 0.3, 3
"""A host whose session has ended is asked so often within that time. On a network between hosts an answer takes milliseconds; new
connections wait for a SYN that was lost for a second."""
VOTE_PAUSE = 0.2
"""Seconds between two attempts to be given a vote: catching up takes as long as the state is large."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a seat needs of the node that takes it."""

    member: Callable[[], Member]
    wallet: Wallet
    data: Path
    """`<data root>/swarm`."""
    run: Path
    """`<run directory>`: the store's socket, and what a reboot may take."""
    routes: Callable[[], Sequence[IPv4Network]]
    own_ports: OwnPorts = field(default_factory=lambda: NO_PORTS)
    """What the host listens on beside the swarm's ports."""
    elsewhere: Elsewhere | None = None
    """Where managers have their store if not on their own hosts."""

    @property
    def database(self) -> Path:
        return self.data / DATABASE

    @property
    def kept(self) -> KeptState:
        """What this manager knew last of a store that is not its own."""
        return KeptState(self.data / "last-state")

    @property
    def settings(self) -> MemberSettings:
        own = self.member()
        return MemberSettings(
            name=own.node, address=str(own.advertise_address), swarm=self.data, run=self.run / "etcd"
        )  # fmt: skip

    @property
    def manager_address(self) -> str:
        return f"{self.member().advertise_address}:{self.member().listen_address.rpartition(':')[2]}"

    @property
    def has_part(self) -> bool:
        """Of the shared store; it may be of no use any more."""
        return self.settings.data.exists()

    def etcd(self) -> EtcdMember:
        """This host's part of the shared store. Raises `OperationFailed`."""
        if shutil.which("etcd") is None:
            raise OperationFailed(f"cannot be one of several managers: {NO_ETCD}")
        return EtcdMember(self.settings)


class Seat:
    def __init__(self, manager: Manager, store: Store, kv: Kv | None, closing: AsyncExitStack) -> None:
        self.manager = manager
        self.store = store
        self._kv = kv
        self._closing = closing
        self._etcd: EtcdMember | None = None
        self._outlived: asyncio.Task[int] | None = None
        self._elsewhere: Elsewhere | None = None

    @property
    def is_alone(self) -> bool:
        return self._kv is None and self._elsewhere is None

    def beside(self, task: asyncio.Task[None]) -> None:
        """The task ends with the seat."""
        self._closing.push_async_callback(ended, task)

    async def close(self) -> None:
        """The state stays as it is, and can still be read through `manager`."""
        await self._closing.aclose()

    async def resign(self, peer_url: str) -> bool:
        """Takes this host's part of the shared store out of it, if those that are left can do without: else they would wait for it
        for ever. A store elsewhere is left to the other managers; whether there are none, and it is to be erased."""
        try:
            if self._elsewhere is not None:
                return await self.manager.resign()
            if self._kv is None:
                return False
            await self._disown()
            for member in await self._kv.members():
                if peer_url in member.peer_urls:
                    await self._kv.remove_member(member.id)
        except WeftError as cause:
            log.warning("seat.not_resigned cause=%s", cause)
        return False

    async def _disown(self) -> None:
        """If this fails, they are revoked when the others demote this manager."""
        try:
            await self.manager.disown()
        except WeftError as cause:
            log.warning("seat.not_disowned cause=%s", cause)

    async def take_root(self, own: NodeId) -> None:
        """The store's process reads the root that it trusts only when it starts. Managers learn of a new one at the same moment and
        start it again one after the other, so that there is always a majority; until then the old root vouches for the new."""
        if self._etcd is not None:
            await restart_in_turn(self._etcd, self.store.state, own, "new root certificate")

    @property
    def lost_its_part(self) -> bool:
        """The other managers have taken this host's part out of the shared store, or the swarm goes on without them."""
        return self._etcd is not None and (self._etcd.removed.is_set() or self.later_epoch is not None)

    @property
    def later_epoch(self) -> int | None:
        """Of the cluster, which was begun anew without this manager."""
        return self._outlived.result() if self._outlived is not None and self._outlived.done() else None

    async def part_lost(self) -> None:
        """Until `lost_its_part`."""
        if self._etcd is None or self._outlived is None:
            await asyncio.get_running_loop().create_future()
        else:
            await first(self._etcd.removed.wait(), asyncio.wait((self._outlived,)))

    def ask_others(self, own: Callable[[], int], wallet: Wallet) -> None:
        """For as long as there is this seat: whether the swarm goes on without it. `own`: the epoch that this node knows."""
        cluster = self.manager.cluster.id
        ask = EpochClient(wallet, cluster, lambda: {each.serial for each in self.manager.cluster.revoked})
        self._outlived = asyncio.create_task(later_epoch(own, lambda: self.manager.absent, ask), name="later epoch")
        self._closing.push_async_callback(ended, self._outlived)

    @property
    def has_company(self) -> bool:
        """There is to be another manager."""
        return sum(node.spec.role == "manager" for node in self.store.state.nodes.values()) > 1

    async def company(self) -> None:
        """Of a manager that is alone: waits until another node is to be a manager."""
        kinds: tuple[Kind, ...] = ("node",)
        changes = self.store.subscribe(kinds)
        try:
            while not self.has_company:
                await changes.next()
        finally:
            changes.close()


async def alone(place: Place, store: Store | None = None) -> Seat:
    """`store`: the embedded one, if it is open already; as in `found`."""
    if store is None:
        store = _embedded(place.data, place.member().cluster)
    obstacle = "" if shutil.which("etcd") else NO_ETCD
    async with AsyncExitStack() as opened:
        opened.push_async_callback(store.close)
        await _renew(place, store)
        return await _take(place, store, SoleLeader(place.member().node), None, obstacle, opened)
    raise AssertionError("unreachable")


def _embedded(data: Path, cluster: ClusterId) -> SqliteStore:
    try:
        return SqliteStore.open(data / DATABASE, time.time_ns, cluster=cluster)
    except Damaged as cause:
        advice = RESTORE.format(data=data)
        raise Damaged(LOST.format(where=data / DATABASE, why=cause, advice=advice)) from cause


async def reissued(data: Path, member: Member) -> Credentials:
    """New credentials of the swarm's only manager, which has lost its own. Raises `Damaged` if the swarm's
    state is lost as well."""
    store = _embedded(data, member.cluster)
    try:
        return await certificates.reissued(
            store, member.node, member.advertise_address, time.time_ns(), secrets.token_bytes
        )  # fmt: skip
    finally:
        await store.close()


async def _renew(place: Place, store: Store) -> None:
    """The certificate, if it has expired while the host was off."""
    own, wallet = place.member(), place.wallet
    renewed = await certificates.self_issued(
        store, own.node, own.advertise_address, wallet.credentials, time.time_ns(), secrets.token_bytes
    )  # fmt: skip
    if renewed is not None:
        wallet.replace(renewed)
        log.info("credentials.self_issued node=%s", own.node)


async def found(place: Place, store: Store) -> Seat:
    """Of a swarm's first manager, with the store that it has made; it is the seat's from here on. All or nothing."""
    if place.elsewhere is not None:
        return await elsewhere(place, place.elsewhere, store)
    return await alone(place, store)


async def among(place: Place, *, alone_from_now_on: bool = False) -> Seat:
    """With this host's part of the shared store, which it has already. All or nothing. `alone_from_now_on`: the other parts are lost;
    this one is made the whole, with all that it knows, and the other managers are managers no more."""
    async with AsyncExitStack() as opened:
        etcd = place.etcd()
        if not etcd.has_data:
            raise Damaged(LOST.format(where=etcd.settings.data, why="it is missing", advice=REJOIN))
        opened.push_async_callback(etcd.close)
        await (etcd.start_alone() if alone_from_now_on else etcd.start())
        kv = etcd.client()
        opened.push_async_callback(kv.close)
        store = await _shared(place, etcd, kv, opened)
        opened.push_async_callback(store.close)
        opened.push_async_callback(Keeper(place.kept, store).close)
        leadership = EtcdLeadership(kv, place.member().node)
        opened.push_async_callback(leadership.close)
        door = Door(place, etcd)
        opened.push_async_callback(door.close)
        seat = await _take(place, store, leadership, kv, "", opened, refuse=door.refuse)
    seat._etcd = etcd
    seat.ask_others(lambda: place.member().epoch, place.wallet)
    if alone_from_now_on:
        await seat.manager.outlive_others()
    seat.beside(asyncio.create_task(keep_free(kv), name="space"))
    seat.beside(asyncio.create_task(_arrive(place, seat), name="arrival"))
    return seat


async def _shared(place: Place, etcd: EtcdMember, kv: GatewayClient, opened: AsyncExitStack) -> EtcdStore:
    """What this host's part of the store has. Once it was started it needs a majority to say so: until
    then what was kept is shown. It may have one a moment later, which does no harm."""
    cluster, data = place.member().cluster, etcd.settings.data
    try:
        try:
            await etcd.ready(ANSWER_PATIENCE)
        except Unavailable:
            kept = place.kept.read(cluster)
            log.warning("seat.no_majority cause=etcd does not answer yet kept=%s", kept and kept.revision)
            if kept is not None:
                opened.push_async_callback(ended, asyncio.create_task(kv.first_answer(), name="etcd"))
                return EtcdStore.show(kv, time.time_ns, kept, cluster)
            await etcd.ready()
        return await EtcdStore.open(kv, time.time_ns, cluster=cluster)
    except (NotFound, Damaged) as cause:
        why = "it is empty" if isinstance(cause, NotFound) else cause
        raise Damaged(LOST.format(where=data, why=why, advice=REJOIN)) from cause
    except MemberEnded as cause:
        raise OperationFailed(f"{cause}; its data is {data}. If that is damaged: {REJOIN}") from cause


async def join(place: Place, managers: MemberClient) -> None:
    """Until this host's part of the store votes. Safe to be called again, whatever the last call came to."""
    etcd = place.etcd()
    try:
        request = MemberRequest(
            peer_url=place.settings.peer_url, manager_address=place.manager_address, epoch=place.member().epoch
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


async def elsewhere(place: Place, where: Elsewhere, store: Store | None = None) -> Seat:
    """`store`: that one, if it is open already; as in `found`."""
    own = place.member()
    if store is None:
        store = await where.open(time.time_ns, own.cluster, place.kept.read(own.cluster))
    async with AsyncExitStack() as opened:
        opened.push_async_callback(store.close)
        opened.push_async_callback(Keeper(place.kept, store).close)
        kv = where.client()
        opened.push_async_callback(kv.close)
        leadership = EtcdLeadership(kv, own.node, where.prefix, beside_member=False)
        opened.push_async_callback(leadership.close)
        seat = await _take(place, store, leadership, None, "", opened, ELSEWHERE.format(store=where))
    seat._elsewhere = where
    seat.beside(asyncio.create_task(_arrive(place, seat), name="arrival"))
    return seat


async def move(place: Place, seat: Seat) -> None:
    """Copies the state of a manager that is alone into a new shared store, of which this host has the first part. The seat is
    closed; whoever called says on disk that there is a new store, and only then removes the old one (`forget_database`). If this
    raises, the old store is as it was."""
    etcd = place.etcd()
    try:
        await etcd.wipe()
        etcd.refuse(certificate.serial for certificate in seat.manager.cluster.revoked)
        await etcd.start()
        await etcd.ready()
        kv = etcd.client()
        try:
            await seat.close()
            state = seat.store.state
            await migrate.copy(_with_peer(state, place.member().node, place.settings.peer_url), kv)
        finally:
            await kv.close()
    except BaseException:
        await etcd.wipe()
        raise
    finally:
        await etcd.close()
    log.info("store.moved objects=%d revision=%d", sum(1 for _ in state.objects()), state.revision)


async def give_up(place: Place) -> None:
    """This host's part of the shared store is of no use any more. Also where etcd is not installed any more."""
    etcd = EtcdMember(place.settings)
    try:
        await etcd.wipe()
    finally:
        await etcd.close()


def forget_database(place: Place) -> None:
    for suffix in ("", "-wal", "-shm"):
        place.database.with_name(DATABASE + suffix).unlink(missing_ok=True)


async def _take(
    place: Place, store: Store, leadership: Leadership, kv: Kv | None, obstacle: str, opened: AsyncExitStack,
    no_members: str = ALONE, refuse: Refuse = no_door,
) -> Seat:  # fmt: skip
    """`opened`: what is to be closed when the seat is; it is the seat's if this returns."""
    member = place.member()
    manager = Manager(
        member.node, store, leadership, time.time_ns, secrets.token_bytes, PkiAuthority(), place.routes(), kv, obstacle,
        host_answers, no_members, ping.EchoSocket, ManagerRelay(place.wallet), refuse, place.own_ports,
    )  # fmt: skip
    server = SessionServer(manager, member.cluster, place.wallet)
    await server.start(member.listen_address)
    opened.push_async_callback(server.close)
    await manager.start()
    opened.push_async_callback(manager.close)  # first, so that agents hear that it stops
    return Seat(manager, store, kv, opened.pop_all())


async def _arrive(place: Place, seat: Seat) -> None:
    """Others learn of this manager once the store says so; without a majority that takes until there is one again."""
    while True:
        try:
            await seat.manager.arrive(place.manager_address)
            return
        except WeftError as cause:
            log.warning("seat.not_announced cause=%s", cause)
            await asyncio.sleep(ARRIVE_PAUSE)


class Door:
    """The way into this host's part of the store: closed to those whose certificate was revoked."""

    def __init__(
        self, place: Place, etcd: EtcdMember,
        end: Callable[[IPv4Address, int], int] = connections.end_accepted,
    ) -> None:  # fmt: skip
        """`end`: all connections to an address and port."""
        self._place = place
        self._etcd = etcd
        self._end = end
        self._restarting: asyncio.Task[None] | None = None

    async def refuse(self, certificates: Sequence[ManagerCertificate], state: ClusterState) -> None:
        """`manager.members.Refuse`. All connections are ended: etcd does not say whose they are, and
        who may come back does so within a fraction of an election. Where the kernel cannot end them
        etcd is started again, in turn."""
        if not self._etcd.refuse(certificate.serial for certificate in certificates):
            return
        own = self._place.member()
        try:
            await asyncio.to_thread(self._end, own.advertise_address, PEER_PORT)
        except OperationFailed as cause:
            log.warning("store.connections_stand cause=%s", cause)
            await self.close()
            turn = restart_in_turn(self._etcd, state, own.node, "certificates were revoked")
            self._restarting = asyncio.create_task(turn, name="door")

    async def close(self) -> None:
        if self._restarting is not None:
            await ended(self._restarting)


async def restart_in_turn(etcd: EtcdMember, state: ClusterState, own: NodeId, cause: str) -> None:
    """What all managers do at one time: one after the other, so that there is always a majority."""
    managers = sorted(node.id for node in state.nodes.values() if node.store_peer)
    await asyncio.sleep(RESTART_PAUSE * (1 + managers.index(own)) if own in managers else 0)
    await etcd.restart()
    log.info("store.restarted cause=%s", cause)


def _with_peer(state: ClusterState, own: NodeId, peer_url: str) -> ClusterState:
    """The state in which this node has its part of the store."""
    objects = [msgspec.structs.replace(obj, store_peer=peer_url) if obj.id == own else obj for obj in state.objects()]
    return ClusterState(objects, state.revision)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancels it and waits for its end. What it failed with, if it did, is logged."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await contained(task.get_name(), task)


async def host_answers(addresses: Sequence[IPv4Address]) -> bool:
    """`manager.suspicion.Probe`."""
    return await ping.answers(addresses, secrets.randbits(16), PROBE_SECONDS, PROBE_ATTEMPTS)
