"""A node's membership in a swarm while it lasts: its agent, its certificate, and a manager while
the certificate says so.

    found, enter, resume   the three ways in      leave   the way out
    the certificate names the role, and `membership.py` follows it with the steps of
    `manager_parts.py`

Wiring only. `close` stops everything and leaves containers, networks and files as they are, so that
the next daemon resumes where this one stopped.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Coroutine
from ipaddress import IPv4Address
from typing import Any

import msgspec

from weft.agent.adapters import (
    Adapters,
    CertificateAdapters,
    ManagerAdapters,
    RevocationAdapters,
)
from weft.agent.agent import Agent
from weft.control.allocator.routes import worth_telling
from weft.daemon.environment import NodeEnvironment
from weft.daemon.locked_files import LockedFiles
from weft.daemon.manager_host import DATABASE, ManagerHost
from weft.daemon.manager_parts import HostParts
from weft.daemon.member_record import MemberRecord
from weft.daemon.membership import RoleFollower
from weft.daemon.opening import opener
from weft.daemon.recovery import erase, mended, undo
from weft.daemon.role_steps import Step
from weft.daemon.running_manager import RunningManager, is_revoked
from weft.daemon.sealing_key_file import SEALING_KEYS, SealingKeyFile, sealing
from weft.daemon.store_part import leave_store
from weft.errors import Damaged, FailedPrecondition, Unavailable
from weft.manager.authority import PkiAuthority
from weft.manager.bootstrap import Founder, create_swarm
from weft.manager.certificates import reissued
from weft.manager.manager import Manager
from weft.model.cluster import Cluster
from weft.model.membership import InitRequest, JoinRequest, LocalSwarmState, Membership
from weft.model.node import Node, Role
from weft.pki import authority
from weft.pki.certificate import holder
from weft.pki.sealing import SealingKey
from weft.session.attachments import AttachmentClient
from weft.session.base import AdmissionRequest, AgentSession, Connect
from weft.session.client import join
from weft.session.credentials import EXPIRED
from weft.session.identity import Credentials, CredentialSource, IdentityStore, Member, new_key
from weft.session.node_lock import LOCKED
from weft.session.revocations import RevocationClient, Revocations
from weft.session.streams import StreamConnector
from weft.store.base import Store
from weft.store.sqlite import SqliteStore
from weft.system.supervision import ended

log = logging.getLogger(__name__)

JOIN_PATIENCE = 20.0
RESUME_PATIENCE = 5.0
"""Seconds that joining and resuming wait for the manager to run; after that the manager is opened
in the background."""
STILL_JOINING = (
    "Timeout was reached before node joined. The attempt to join the swarm will continue in the"
    ' background. Use the "docker info" command to see the current swarm status of your node.'
)


class SwarmNode:
    def __init__(
        self,
        environment: NodeEnvironment,
        identity: IdentityStore,
        member: Member,
        credentials: Credentials,
        trouble: str = "",
    ) -> None:
        """`trouble`: why the credentials are unusable, if they are. The agent then goes on with
        what it has, and the node keeps its last role. The same holds for locked credentials, until
        `unlock`."""
        self._environment = environment
        self._identity = identity
        self._unlocked = asyncio.Event()
        if trouble or not identity.is_locked(credentials):
            self._unlocked.set()
        role = holder(credentials.certificate).role if not trouble else member.role
        self.record = MemberRecord(identity, msgspec.structs.replace(member, role=role))
        self._credential_source = CredentialSource(credentials, identity.save_credentials)
        self._revocations = Revocations(environment.data, time.time_ns)
        sealing_keys = SealingKeyFile(environment.data / SEALING_KEYS, identity.lock)
        files = LockedFiles(identity.lock, sealing_keys, self._credential_source.save_again)
        self._host = ManagerHost(
            member=lambda: self.member,
            credential_source=self._credential_source,
            data=environment.data,
            run=environment.run,
            routes=environment.host.routes,
            own_ports=environment.own_ports,
            files=files,
            sealing_keys=sealing_keys,
            pace=environment.pace,
            external_etcd=environment.external_etcd,
            is_revoked=self._is_revoked,
        )
        self._parts = HostParts(self._host, self.record, self._begun)
        self._role = RoleFollower(self._parts, LOCKED if self.is_locked else trouble)
        self._root = credentials.root
        self._running: list[asyncio.Task[None]] = []
        facts = msgspec.structs.replace(
            environment.facts(member.node, member.data_path_address),
            own_ports=environment.ports_of_member(member.listen_address),
        )
        self.agent = Agent(
            member.node,
            environment.data / "agent",
            facts,
            environment.engine,
            self._adapters(bool(trouble)),
        )

    def _adapters(self, has_no_credentials: bool) -> Adapters:
        host, credential_source = self._environment.host, self._credential_source
        managers = ManagerAdapters(
            connect=(
                self._cannot_connect
                if has_no_credentials
                else self._unless_locked(
                    host.connector(credential_source, self._manager_addresses, self._is_revoked)
                )
            ),
            changed=self.record.remember_managers,
            open_stream=StreamConnector(
                credential_source, self._is_revoked, self._revocations.revoked
            ),
            attach=AttachmentClient(
                credential_source,
                self._manager_addresses,
                lambda: LOCKED if self.is_locked else self._role.damage,
                self._is_revoked,
            ),
            open_echo=host.open_echo,
            revocations=RevocationAdapters(
                revocations=self._revocations,
                ask=RevocationClient(credential_source, self._is_revoked),
                managers=self.record.other_managers,
            ),
            epoch=lambda: self.member.epoch,
            check_epoch=self.record.check_epoch,
        )
        certificate = CertificateAdapters(
            credential_source=credential_source,
            advertise_address=str(self.member.advertise_address),
            changed=self._take_role,
        )
        return Adapters(
            managers=managers,
            description=host.description,
            origin=self._environment.engine.adapters.origin,
            routes=lambda: worth_telling(host.routes()),
            examine_host=host.examine,
            certificate=None if has_no_credentials else certificate,
        )

    # --- ways in

    @classmethod
    async def found(
        cls,
        environment: NodeEnvironment,
        request: InitRequest,
        advertise: IPv4Address,
        data_path: IPv4Address,
    ) -> "SwarmNode":
        """Creates a new swarm with this node as its manager. All or nothing."""
        port = request.listen_address.rpartition(":")[2]
        founder = Founder(
            description=environment.host.description(),
            data_path_address=data_path,
            manager_address=f"{advertise}:{port}",
        )
        environment.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = await _new_store(environment)
        identity, created = IdentityStore(environment.data, environment.run), False
        try:
            sealing_keys = SealingKeyFile(environment.data / SEALING_KEYS, identity.lock)
            cluster, node = await _create(store, request, founder, sealing_keys)
            created = True
            credentials = await reissued(
                store,
                node.id,
                advertise,
                time.time_ns(),
                secrets.token_bytes,
                opener(sealing_keys),
            )
            member = Member(
                node=node.id,
                cluster=cluster.id,
                role="manager",
                advertise_address=advertise,
                data_path_address=data_path,
                listen_address=request.listen_address,
                managers=((node.id, founder.manager_address),),
                store="external" if environment.external_etcd is not None else "alone",
            )
            identity.save(member, credentials)
        except BaseException:
            await store.close()
            await undo(identity, environment.external_etcd if created else None)
            raise
        swarm = cls(environment, identity, member, credentials)
        try:
            await swarm._parts.found(store)
            if request.spec.auto_lock and swarm.manager is not None:
                await swarm.manager.swarm.begin_autolock()
        except BaseException:
            await swarm.close()
            await undo(identity, environment.external_etcd if created else None)
            raise
        swarm._begin()
        return swarm

    @classmethod
    async def enter(
        cls,
        environment: NodeEnvironment,
        request: JoinRequest,
        advertise: IPv4Address,
        data_path: IPv4Address,
    ) -> "SwarmNode":
        """Joins an existing swarm. A new manager may not run yet when this returns."""

        def ask(csr: str) -> AdmissionRequest:
            hostname = environment.host.description().hostname
            return AdmissionRequest(
                token=request.token,
                csr=csr,
                hostname=hostname,
                data_path_address=data_path,
                availability=request.availability,
                advertise_address=str(advertise),
            )

        admitted, credentials = await join(request.remote_addresses, ask, request.token)
        member = Member(
            node=admitted.node,
            cluster=admitted.cluster,
            role=admitted.role,
            advertise_address=advertise,
            data_path_address=data_path,
            listen_address=request.listen_address,
            managers=admitted.managers,
        )
        identity = IdentityStore(environment.data, environment.run)
        identity.save(member, credentials)
        swarm = cls(environment, identity, member, credentials)
        swarm._begin()
        return swarm

    @classmethod
    async def resume(cls, environment: NodeEnvironment) -> "SwarmNode | None":
        """Resumes the membership of the last daemon on this data root; None if there was none."""
        identity = IdentityStore(environment.data, environment.run)
        found = identity.load()
        if found is None:
            return None
        member, credentials = found
        trouble = identity.trouble(member, credentials)
        if trouble:
            credentials, trouble = await mended(identity, member, credentials, trouble)
        swarm = cls(environment, identity, member, credentials, trouble)
        if (
            swarm.member.store == "none"
            and swarm.is_manager
            and (environment.data / DATABASE).exists()
        ):
            swarm.record.keep_store("alone")  # from before other stores existed
        swarm._check_store()
        if swarm.is_locked:
            log.warning("swarm.locked node=%s", member.node)
        elif swarm.is_manager and swarm.member.store == "alone" and not trouble:
            try:
                await swarm._parts.take(Step.OPEN_ALONE)
            except Damaged as error:
                swarm._role.give_up(error)
        swarm._begin()
        if not swarm._role.damage:
            await swarm.settled(RESUME_PATIENCE)
        return swarm

    # --- life

    @property
    def member(self) -> Member:
        return self.record.member

    @property
    def is_manager(self) -> bool:
        """Whether the certificate says so. The manager may not run yet, or may still run."""
        return self.member.role == "manager"

    @property
    def is_locked(self) -> bool:
        """Whether a manager waits for the key that users hold."""
        return not self._unlocked.is_set()

    @property
    def manager(self) -> Manager | None:
        running = self._parts.running
        return running.manager if running is not None else None

    @property
    def membership(self) -> Membership:
        expired = EXPIRED if self.agent.uplink.expired else ""
        return Membership(
            state=self._state(bool(self._role.damage or expired)),
            node=self.member.node,
            address=str(self.member.advertise_address),
            is_manager=self.is_manager,
            managers=self.member.managers,
            error=self._role.damage or expired or self._role.obstacle,
        )

    def _state(self, is_damaged: bool) -> LocalSwarmState:
        if self.is_locked:
            return "locked"
        return "error" if is_damaged else "active"

    async def unlock(self, key: SealingKey) -> None:
        """Goes on as a manager, with the key that users hold. Raises `Unauthorized` if it is
        another one, `Damaged`."""
        credentials = self._identity.unlocked(self._credential_source.credentials, key)
        if trouble := self._identity.trouble(self.member, credentials):
            raise Damaged(f"cannot use the credentials of this node, {trouble}")
        self._credential_source.replace(credentials)
        self._unlocked.set()
        log.info("swarm.unlocked node=%s", self.member.node)
        self._role.mend()
        await self.settled(RESUME_PATIENCE)

    async def settled(self, seconds: float) -> bool:
        """Waits up to `seconds` for the manager of a node that is to be one; returns whether it
        runs. A worker needs none."""
        if not self.is_manager:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._parts.runs()
        return self._parts.is_running

    async def failed(self) -> None:
        """Waits as long as all parts run, or until they were stopped on purpose; raises the error
        that ended a part unexpectedly."""
        while self._running:
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in self._running or not task.cancelled():
                    await task

    async def go_on_alone(self) -> None:
        """See `HostParts.go_on_alone`."""
        follower = next(task for task in self._running if task.get_name() == "role")
        self._running.remove(follower)
        await ended(follower)
        try:
            await self._parts.go_on_alone()
        finally:
            self._start("role", self._role.run())

    async def leave(self, force: bool) -> None:
        """Leaves the swarm: ends the tasks in good order, then removes containers, networks and
        files of this membership. `force`: waits for no manager that is out of reach."""
        await self.agent.retire(force)
        await self._stop_running()
        try:
            await self.agent.leave()
        finally:
            running = self._parts.running
            is_last = running is not None and await running.resign(self._host.settings.peer_url)
            await self.close()
            if is_last and self._environment.external_etcd is not None:
                await erase(self._environment.external_etcd)
            if self._host.has_part:
                await leave_store(self._host)
            self._identity.erase()

    async def close(self) -> None:
        await self._stop_running()
        await self._parts.stop()

    def _begin(self) -> None:
        self._start("agent", self.agent.run())
        self._start("role", self._role.run())

    def _start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        self._running.append(asyncio.create_task(coroutine, name=name))

    async def _stop_running(self) -> None:
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("member.stopped cause=%r", result)

    # --- the role

    def _take_role(self, credentials: Credentials, role: Role) -> None:
        """Takes new credentials; the role may be unchanged."""
        if role != self.member.role:
            log.info("role.changed role=%s", role)
            self.record.keep_role(role)
            self._role.role_changed()
        if credentials.root != self._root and (running := self._parts.running) is not None:
            running.beside(asyncio.create_task(running.take_root(self.member.node), name="root"))
        self._root = credentials.root

    def _unless_locked(self, connect: Connect) -> Connect:
        async def connect_unlocked() -> AgentSession:
            if self.is_locked:
                await self._unlocked.wait()
                raise Unavailable(LOCKED)  # the next attempt, at once, begins with the credentials
            return await connect()

        return connect_unlocked

    async def _cannot_connect(self) -> AgentSession:
        raise Unavailable(self._role.damage)

    def _check_store(self) -> None:
        """Raises `FailedPrecondition` if the daemon is configured with another store than this
        manager's."""
        configured = self._environment.external_etcd
        if self.member.store == "external" and configured is None:
            raise FailedPrecondition(
                f"cannot resume manager {self.member.node}: the swarm's state is in an etcd"
                " elsewhere: set store in the daemon's configuration as it was"
            )
        if self.member.store in ("alone", "shared") and configured is not None:
            raise FailedPrecondition(
                f"cannot use store {configured}: manager {self.member.node} has the swarm's state"
                " on its own disk; it can be elsewhere only from the swarm's beginning"
            )

    def _begun(self, running: RunningManager) -> None:
        running.beside(asyncio.create_task(self._pump_events(running.manager), name="events"))

    async def _pump_events(self, manager: Manager) -> None:
        with contextlib.suppress(Unavailable):
            async for event in manager.swarm.events():
                self._environment.engine.events.add(event)

    # --- managers

    def _manager_addresses(self) -> list[str]:
        return self.record.manager_addresses(self._host.own_door)

    def _is_revoked(self, serial: str) -> bool:
        """Whether a certificate was revoked, as managers have told this node, or as this manager
        knows before its agent is told."""
        running = self._parts.running
        return self._revocations.is_revoked(serial) or (
            running is not None and is_revoked(running.store, serial)
        )


async def _create(
    store: Store, request: InitRequest, founder: Founder, sealing_keys: SealingKeyFile
) -> tuple[Cluster, Node]:
    """The first state of a swarm. Its manager turns autolock on once it runs."""
    root = authority.root(new_key(), time.time_ns(), authority.make_serial(secrets.token_bytes))
    founding = msgspec.structs.replace(
        request, spec=msgspec.structs.replace(request.spec, auto_lock=False)
    )
    return await create_swarm(
        store,
        founding,
        founder,
        root,
        PkiAuthority(),
        secrets.token_bytes,
        sealing(sealing_keys),
    )


async def _new_store(environment: NodeEnvironment) -> Store:
    if environment.external_etcd is not None:
        return await environment.external_etcd.begin(time.time_ns)
    return SqliteStore.open(environment.data / DATABASE, time.time_ns)
