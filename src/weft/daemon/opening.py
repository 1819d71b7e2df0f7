"""Opens this node's manager (`running_manager.py`) with a store, leadership, the control loops, and
the session listener.

    open_alone     with the embedded store
    open_shared    with this host's etcd member
    open_external  with a store in an external etcd
    move_store     from the embedded to the shared store, when another node is to be a manager:
                   copies everything; the embedded store goes only when the copy is complete

Wiring only. Each opens all or nothing."""

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from weft.daemon.later_epoch import later_epoch
from weft.daemon.manager_host import DATABASE, NO_ETCD, ManagerHost
from weft.daemon.running_manager import (
    AloneManager,
    ExternalManager,
    RunningManager,
    SharedManager,
    is_revoked,
)
from weft.daemon.sealing_key_file import SealingKeyFile
from weft.daemon.store_part import Door
from weft.errors import Damaged, NotFound, OperationFailed, Unavailable, WeftError
from weft.linux import ping
from weft.manager import certificates
from weft.manager.authority import PkiAuthority
from weft.manager.certificates import OpenRoot
from weft.manager.manager import Manager
from weft.manager.members import ALONE, Refuse, no_door
from weft.manager.ports import HostSettings, ManagerPorts
from weft.model.cluster import RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.state import ClusterState, cluster_of
from weft.pki.stored_secrets import opened_root
from weft.session.client import EpochClient
from weft.session.deadlines import Deadlines
from weft.session.identity import Credentials, Member
from weft.session.sealing_keys import SealingKeyClient
from weft.session.server import SessionServer
from weft.session.streams import ManagerRelay
from weft.store.base import Leadership, Store
from weft.store.etcd import migrate
from weft.store.etcd.base import Kv
from weft.store.etcd.client import GatewayClient
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.external import ExternalEtcd
from weft.store.etcd.leadership import EtcdLeadership
from weft.store.etcd.process import EtcdMember, MemberEnded
from weft.store.etcd.space import keep_free
from weft.store.kept import Keeper
from weft.store.sole import SoleLeader
from weft.store.sqlite import SqliteStore
from weft.system.supervision import ended

log = logging.getLogger(__name__)

T = TypeVar("T")

VALIDITY_CHECK = 60.0
"""Seconds between two checks of the sole manager's own certificate."""
EXTERNAL = (
    "cannot take in a manager: the swarm's state is in {store}, which its daemon must be told: set"
    " store in its configuration"
)
LOST = "cannot open the swarm's state {where}: {why}. Nothing was changed there. {advice}"
RESTORE = (
    "This node is the swarm's only manager: stop the daemon and restore a backup of {data}, or give"
    " the swarm up: docker swarm leave --force"
)
REJOIN = (
    "Where there are other managers, demote this node at one of them and promote it again; else"
    " stop the daemon and restore a backup, or give the swarm up: docker swarm leave --force"
)
ARRIVE_PAUSE = 1.0
ANSWER_PATIENCE = 3.0
"""Seconds for a newly started etcd member to find a quorum, for which it needs an election or
two."""
PROBE_SECONDS, PROBE_ATTEMPTS = 0.3, 3
"""A host whose session has ended is asked this often within this time. On a network between hosts
an answer takes milliseconds; a new connection waits one second after a lost SYN."""


async def open_alone(host: ManagerHost, store: Store | None = None) -> RunningManager:
    """`store`: the embedded store, if it is open already, as in `found`."""
    if store is None:
        store = _embedded(host.data, host.member().cluster)
    obstacle = "" if shutil.which("etcd") else NO_ETCD
    async with AsyncExitStack() as opened:
        opened.push_async_callback(store.close)
        await _renew_if_possible(host, store)
        part = StorePart(store=store, leadership=SoleLeader(host.member().node), obstacle=obstacle)
        manager = await _begin(host, part, opened)
        _beside(opened, _stay_valid(host, store), "certificate")
        return AloneManager(manager, store, opened.pop_all())
    raise AssertionError("unreachable")


def _embedded(data: Path, cluster: ClusterId) -> SqliteStore:
    try:
        return SqliteStore.open(data / DATABASE, time.time_ns, cluster=cluster)
    except Damaged as cause:
        advice = RESTORE.format(data=data)
        raise Damaged(LOST.format(where=data / DATABASE, why=cause, advice=advice)) from cause


def opener(sealing_keys: SealingKeyFile) -> OpenRoot:
    """Opens roots with the keys that this manager's disk has at that time."""

    def open_root(root: RootCa) -> RootCa:
        return opened_root(root, {key.id: key for key in sealing_keys.read()}.get)

    return open_root


async def reissued(data: Path, member: Member, sealing_keys: SealingKeyFile) -> Credentials:
    """New credentials for the swarm's only manager after it has lost its own. Raises `Damaged` if
    the swarm's state is lost as well."""
    store = _embedded(data, member.cluster)
    try:
        return await certificates.reissued(
            store,
            member.node,
            member.advertise_address,
            time.time_ns(),
            secrets.token_bytes,
            opener(sealing_keys),
        )
    finally:
        await store.close()


async def _renew(host: ManagerHost, store: Store) -> None:
    """Renews the certificate if it is due."""
    own, credential_source = host.member(), host.credential_source
    renewed = await certificates.self_issued(
        store,
        own.node,
        own.advertise_address,
        credential_source.credentials,
        time.time_ns(),
        secrets.token_bytes,
        opener(host.sealing_keys),
    )
    if renewed is not None:
        credential_source.replace(renewed)
        log.info("credentials.self_issued node=%s", own.node)


async def _stay_valid(host: ManagerHost, store: Store) -> None:
    """Renews the certificate until cancelled. The agent does so in time, unless the clock was set
    or the host slept; an expired certificate cannot be used to ask for a new one."""
    while True:
        await asyncio.sleep(VALIDITY_CHECK)
        await _renew_if_possible(host, store)


async def _renew_if_possible(host: ManagerHost, store: Store) -> None:
    """A manager without the swarm's sealing key cannot renew it, and does all else."""
    try:
        await _renew(host, store)
    except WeftError as cause:
        log.error("credentials.not_renewed node=%s cause=%s", host.member().node, cause)


async def found(host: ManagerHost, store: Store) -> RunningManager:
    """Opens a swarm's first manager with the store that it has created, which from now on belongs
    to the manager. All or nothing."""
    if host.external_etcd is not None:
        return await open_external(host, host.external_etcd, store)
    return await open_alone(host, store)


async def open_shared(host: ManagerHost, *, alone_from_now_on: bool = False) -> RunningManager:
    """Opens a manager with this host's existing etcd member. All or nothing. `alone_from_now_on`:
    the other members are lost; this member becomes the only one, with all that it knows, and the
    other managers are managers no longer."""
    async with AsyncExitStack() as opened:
        etcd = host.etcd()
        if not etcd.has_data:
            raise Damaged(LOST.format(where=etcd.settings.data, why="it is missing", advice=REJOIN))
        opened.push_async_callback(etcd.close)
        await (etcd.start_alone() if alone_from_now_on else etcd.start())
        kv = etcd.client()
        opened.push_async_callback(kv.close)
        store = await _shared(host, etcd, kv, opened)
        opened.push_async_callback(store.close)
        opened.push_async_callback(Keeper(host.kept, store).close)
        leadership = EtcdLeadership(kv, host.member().node)
        opened.push_async_callback(leadership.close)
        door = Door(host, etcd)
        opened.push_async_callback(door.close)
        part = StorePart(store=store, leadership=leadership, kv=kv, refuse=door.refuse)
        manager = await _begin(host, part, opened)
        if alone_from_now_on:
            await manager.go_on_alone()
        ask = EpochClient(
            host.credential_source,
            partial(is_revoked, store),
            Deadlines(host.pace.election),
        )
        asking = later_epoch(lambda: host.member().epoch, lambda: manager.absent, ask)
        asked = _beside(opened, asking, "later epoch")
        _beside(opened, keep_free(kv), "space")
        _beside(opened, _arrive(host, manager), "arrival")
        return SharedManager(manager, store, opened.pop_all(), etcd, kv, asked)
    raise AssertionError("unreachable")


async def _shared(
    host: ManagerHost, etcd: EtcdMember, kv: GatewayClient, opened: AsyncExitStack
) -> EtcdStore:
    """The store as this host's etcd member has it. A started member needs a quorum to answer; until
    then the store shows the state that was kept. A quorum found a moment later does no harm."""
    cluster, data = host.member().cluster, etcd.settings.data
    try:
        try:
            await etcd.ready(host.pace.of(ANSWER_PATIENCE))
        except Unavailable:
            kept = host.kept.read(cluster)
            log.warning(
                "manager.no_majority cause=etcd does not answer yet kept=%s", kept and kept.revision
            )
            if kept is not None:
                opened.push_async_callback(
                    ended, asyncio.create_task(kv.first_answer(), name="etcd")
                )
                return EtcdStore.show(kv, time.time_ns, kept, cluster)
            await etcd.ready()
        return await EtcdStore.open(kv, time.time_ns, cluster=cluster)
    except (NotFound, Damaged) as cause:
        why = "it is empty" if isinstance(cause, NotFound) else cause
        raise Damaged(LOST.format(where=data, why=why, advice=REJOIN)) from cause
    except MemberEnded as cause:
        raise OperationFailed(
            f"{cause}; its data is {data}. If that is damaged: {REJOIN}"
        ) from cause


async def open_external(
    host: ManagerHost, where: ExternalEtcd, store: Store | None = None
) -> RunningManager:
    """`store`: the external store, if it is open already, as in `found`."""
    own = host.member()
    if store is None:
        store = await where.open(time.time_ns, own.cluster, host.kept.read(own.cluster))
    async with AsyncExitStack() as opened:
        opened.push_async_callback(store.close)
        opened.push_async_callback(Keeper(host.kept, store).close)
        kv = where.client()
        opened.push_async_callback(kv.close)
        leadership = EtcdLeadership(kv, own.node, where.prefix, beside_member=False)
        opened.push_async_callback(leadership.close)
        part = StorePart(
            store=store, leadership=leadership, no_members=EXTERNAL.format(store=where)
        )
        manager = await _begin(host, part, opened)
        _beside(opened, _arrive(host, manager), "arrival")
        return ExternalManager(manager, store, opened.pop_all())
    raise AssertionError("unreachable")


async def move_store(host: ManagerHost, running: RunningManager) -> None:
    """Copies the state of a manager that is alone into a new shared store, with this host's etcd
    member as the first. The manager is closed. The caller records the new store on disk, and only
    then removes the old one (`forget_database`). If this raises, the old store is unchanged."""
    etcd = host.etcd()
    try:
        await etcd.wipe()
        etcd.refuse(certificate.serial for certificate in cluster_of(running.store.state).revoked)
        await etcd.start()
        await etcd.ready()
        kv = etcd.client()
        try:
            await running.close()
            state = running.store.state
            await migrate.copy(_with_peer(state, host.member().node, host.settings.peer_url), kv)
        finally:
            await kv.close()
    except BaseException:
        await etcd.wipe()
        raise
    finally:
        await etcd.close()
    log.info("store.moved objects=%d revision=%d", sum(1 for _ in state.objects()), state.revision)


def _with_peer(state: ClusterState, own: NodeId, peer_url: str) -> ClusterState:
    """The state in which this node has an etcd member."""
    objects = [
        msgspec.structs.replace(obj, store_peer=peer_url) if obj.id == own else obj
        for obj in state.objects()
    ]
    return ClusterState(objects, state.revision)


@dataclass(frozen=True, kw_only=True)
class StorePart:
    """What depends on the place where the state is."""

    store: Store
    leadership: Leadership
    kv: Kv | None = None
    """The etcd client behind a store with etcd members."""
    refuse: Refuse = no_door
    """See `ManagerPorts`."""
    obstacle: str = ""
    no_members: str = ALONE
    """See `HostSettings`."""


async def _begin(host: ManagerHost, part: StorePart, opened: AsyncExitStack) -> Manager:
    """The manager, running and listening; closed with `opened`."""
    member = host.member()
    relay = ManagerRelay(host.credential_source, partial(is_revoked, part.store))
    manager = Manager(
        member.node,
        part.store,
        part.leadership,
        ManagerPorts(
            clock=time.time_ns,
            entropy=secrets.token_bytes,
            authority=PkiAuthority(),
            probe=host_answers,
            open_echo=ping.EchoSocket,
            relay=relay,
            sealing_keys=host.sealing_keys,
            ask_keys=SealingKeyClient(host.credential_source, partial(is_revoked, part.store)),
            files=host.files,
            refuse=part.refuse,
        ),
        HostSettings(
            routes=tuple(host.routes()),
            own_ports=host.own_ports,
            obstacle=part.obstacle,
            no_members=part.no_members,
        ),
        part.kv,
    )
    server = SessionServer(manager, member.cluster, host.credential_source)
    await server.start(member.listen_address)
    opened.push_async_callback(server.close)
    await manager.start()
    opened.push_async_callback(manager.close)  # closed first: agents hear that it stops
    return manager


def _beside(opened: AsyncExitStack, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
    """Runs beside the manager, and ends with it."""
    task = asyncio.create_task(work, name=name)
    opened.push_async_callback(ended, task)
    return task


async def _arrive(host: ManagerHost, manager: Manager) -> None:
    """Announces this manager to the others in the store; without a quorum, tries until there is one
    again."""
    while True:
        try:
            await manager.arrive(host.manager_address)
            return
        except WeftError as cause:
            log.warning("manager.not_announced cause=%s", cause)
            await asyncio.sleep(ARRIVE_PAUSE)


async def host_answers(addresses: Sequence[IPv4Address]) -> bool:
    """`manager.suspicion.Probe`."""
    return await ping.answers(addresses, secrets.randbits(16), PROBE_SECONDS, PROBE_ATTEMPTS)
