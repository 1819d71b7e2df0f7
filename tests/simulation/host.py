"""A host in a simulation: a disk, a kernel and a runtime that outlive the daemon, and the daemon: a
real agent, and on managers a real manager, with the daemon's own `membership.py`.

    kill      the daemon is gone in the middle of whatever it did; containers and networks stay, the
              member of etcd as well
    reboot    all processes are gone, containers and the kernel's network with them; what was on the
              disk is there
"""

import asyncio
import random
import shutil
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tests.simulation.network import LATENCY, SimNetwork
from tests.simulation.processes import Processes
from tests.simulation.role import Part, SimParts
from tests.support import virtual_time
from weft.agent.adapters import Adapters, CertificateAdapters, ManagerAdapters
from weft.agent.agent import Agent
from weft.daemon.membership import RoleFollower
from weft.daemon.role_steps import StoreKind
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.errors import InvalidArgument, Unavailable, WeftError
from weft.linux.fake import FakeKernel
from weft.linux.fake_echo import FakeEcho
from weft.manager.authority import PkiAuthority
from weft.manager.manager import Manager
from weft.manager.ports import HostSettings, ManagerPorts
from weft.manager.vault import KeysInMemory
from weft.model.assignment import Assignment, AssignmentChange
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import NodeDescription, Role
from weft.model.sandbox import NodeFacts
from weft.model.service import Resources
from weft.pki.certificate import holder, issuer_id, verify
from weft.pki.sealing import SealingKey
from weft.runtime.fake import FakeImages, FakeRuntime
from weft.runtime.fake_volumes import FakeVolumes
from weft.session.base import (
    AgentSession,
    Identity,
    ManagerSession,
    MemberRequest,
    PublishRequest,
    SealingKeyGrant,
    StreamSink,
)
from weft.session.fake_streams import MemoryStream
from weft.session.identity import Credentials, CredentialSource
from weft.store.base import Leadership, Store
from weft.store.etcd.base import Kv

RESOURCES = Resources(nano_cpus=8_000_000_000, memory=16 << 30)
IMAGE = "demo"
UNDERLAY, SUBNET = IPv4Address("10.59.72.10"), IPv4Network("10.59.72.0/24")
PROBE = 0.3
"""Seconds that a host takes for no answer."""
RUNTIME_LATENCY = 0.02
"""Seconds that an effect on a container takes."""
CONNECT_TIMEOUT = 1.5


class SimAgent(Agent):
    """Shows each assignment to `told`, as it is taken over."""

    told: Callable[[Assignment], None]

    def _change(self, change: AssignmentChange) -> None:
        super()._change(change)
        if not self.retirement.stops_all:
            self.told(self.assignment)


class SimHost:
    def __init__(
        self,
        number: int,
        directory: Path,
        processes: Processes,
        network: SimNetwork,
        part: Part,
        rng: random.Random,
        failed: Callable[[BaseException], None],
        told: Callable[[Assignment], None],
    ) -> None:
        """`directory`: its disk. `failed` is told of what should never end and did, `told` of each
        assignment."""
        self.name = f"node{number}"
        self.address = UNDERLAY + number
        self.disk = directory / self.name
        self.disk.mkdir()
        self._processes, self._network, self._part, self._rng, self._failed = (
            processes,
            network,
            part,
            rng,
            failed,
        )
        self.images = FakeImages(IMAGE)
        self.ahead: Nanoseconds = 0
        """By how much its clock is wrong."""
        self.runtime = FakeRuntime(self.images, self.clock)
        self.volumes = FakeVolumes()
        self.runtime.latency = RUNTIME_LATENCY
        self.kernel = FakeKernel()
        self.accepted: Callable[[int], int] = lambda pid: 0
        """How many connections the container with this process has accepted."""
        self.credentials: Credentials | None = None
        """Of the node that this host is; on its disk, as what follows."""
        self.identity: Identity | None = None
        """What they say."""
        self.managers: tuple[tuple[NodeId, str], ...] = ()
        self.sealing_keys = KeysInMemory()
        self.store: StoreKind = "none"
        """Where it keeps the swarm's state."""
        self._follower: RoleFollower | None = None
        self.published: list[MemoryStream] = []
        self.taken: list[MemoryStream] = []
        """Connections for logs that it has opened, and that were opened to it."""
        self._told = told
        self.agent: Agent | None = None
        self.manager: Manager | None = None
        self.peers: Callable[[str], SimHost | None] = lambda address: None
        """The host behind the `host:port` of a manager."""

    def clock(self) -> Nanoseconds:
        return virtual_time.clock() + self.ahead

    # --- life

    @property
    def node(self) -> NodeId | None:
        return self.identity.node if self.identity is not None else None

    @property
    def is_manager(self) -> bool:
        return self.identity is not None and self.identity.role == "manager"

    @property
    def role(self) -> Role:
        return "manager" if self.is_manager else "worker"

    @property
    def is_up(self) -> bool:
        return self.agent is not None

    @property
    def listens_at(self) -> str:
        return f"{self.address}:2377"

    @property
    def peer_url(self) -> str:
        return f"https://{self.name}:2380"

    def hold(self, credentials: Credentials) -> None:
        self.credentials = credentials
        who = holder(credentials.certificate)
        self.identity = Identity(
            who.node,
            who.role,
            who.cluster,
            issuer_id(credentials.certificate),
            who.serial,
            who.expires,
        )
        if self._follower is not None:
            self._follower.role_changed()

    def start(self) -> None:
        assert self.identity is not None
        assert self.agent is None
        facts = NodeFacts(node=self.identity.node, data_path_address=self.address)
        engine = Engine(self.name, self._engine_adapters())
        engine.local.load()
        self._run(engine.run())
        agent = self.agent = SimAgent(
            self.identity.node, self.disk / "agent", facts, engine, self._adapters()
        )
        agent.told = self._told
        self._run(agent.run())
        parts = SimParts(self, self.identity.node, self._part, self._run)
        self._follower = RoleFollower(parts)
        self._run(self._follower.run())

    async def kill(self) -> None:
        """What the process would still do at its end reaches neither the disk nor anybody else."""
        self.agent = self.manager = self._follower = None
        frozen = self.disk.with_name(f"{self.name}.frozen")
        shutil.rmtree(frozen, ignore_errors=True)
        shutil.copytree(self.disk, frozen)
        self._network.vanish(self.name)
        for logs in (*self.published, *self.taken):
            await logs.close()
        await self._processes.kill(self.name)
        shutil.rmtree(self.disk)
        frozen.rename(self.disk)

    async def power_off(self) -> None:
        self._network.off.add(self.name)
        await self.kill()
        self.runtime.lose()
        self.kernel = FakeKernel()

    def power_on(self) -> None:
        self._network.off.discard(self.name)

    async def leave(self, force: bool = False) -> None:
        """Its agent ends well, and takes everything of the swarm with it."""
        agent = self.agent
        assert agent is not None
        await self._processes.spawn(self.name, agent.retire(force))
        self.agent = None
        await agent.close()
        await self._processes.spawn(self.name, agent.leave())
        await self._processes.kill(self.name)
        self._network.vanish(self.name)
        self.credentials, self.identity, self.managers, self.store = None, None, (), "none"

    # --- the daemon

    def entropy(self, n: int) -> bytes:
        return self._rng.randbytes(n)

    def _run(self, work: Any) -> asyncio.Task[Any]:
        task = self._processes.spawn(self.name, work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)

    def _engine_adapters(self) -> EngineAdapters:
        network = NetworkAdapters(
            kernel=self.kernel,
            names=NameAdapters(open_resolver=_open_resolver),
            accepted=lambda pid: self.accepted(pid),
        )
        return EngineAdapters(
            runtime=self.runtime,
            images=self.images,
            volumes=self.volumes,
            network=network,
            origin=self._origin(),
        )

    def _origin(self) -> Origin:
        return Origin(clock=self.clock, entropy=self.entropy)

    def _adapters(self) -> Adapters:
        assert self.credentials is not None
        managers = ManagerAdapters(
            connect=self._connect,
            changed=self._know,
            open_stream=self._publish,
            open_echo=lambda: FakeEcho(self._reaches, 2 * LATENCY),
        )
        credential_source = CredentialSource(self.credentials, self.hold)
        return Adapters(
            managers=managers,
            certificate=CertificateAdapters(
                credential_source=credential_source, advertise_address=str(self.address)
            ),
            description=lambda: NodeDescription(hostname=self.name, resources=RESOURCES),
            origin=self._origin(),
        )

    def _reaches(self, address: IPv4Address) -> bool:
        """Not by way of an overlay: those of the simulation carry no packets."""
        return address in SUBNET and self._network.is_open(
            self.name, f"node{int(address) - int(UNDERLAY)}"
        )

    async def _host_answers(self, addresses: Sequence[IPv4Address]) -> bool:
        if any(map(self._reaches, addresses)):
            return True
        await asyncio.sleep(PROBE)
        return False

    def _know(self, managers: tuple[tuple[NodeId, str], ...]) -> None:
        self.managers = managers or self.managers

    def make_manager(self, store: Store, leadership: Leadership, kv: Kv | None) -> Manager:
        assert self.identity is not None
        return Manager(
            self.identity.node,
            store,
            leadership,
            ManagerPorts(
                clock=self.clock,
                entropy=self.entropy,
                authority=PkiAuthority(),
                probe=self._host_answers,
                open_echo=lambda: FakeEcho(self._reaches, 2 * LATENCY),
                relay=self._relay,
                sealing_keys=self.sealing_keys,
                ask_keys=self._ask_keys,
            ),
            HostSettings(obstacle="" if kv is not None else "the store is one manager's"),
            kv,
        )

    async def become_member(self) -> None:
        """As a node that was made a manager does: its part of the store first."""
        assert self.identity is not None
        host, manager = await self._reached()
        request = MemberRequest(peer_url=self.peer_url, manager_address=self.listens_at)
        await self._ask(host, manager.enlist(self.identity, request))
        self._part.begin(self.name, self.peer_url)
        await self._ask(host, manager.admit_vote(self.identity))

    async def _reached(self, serving: bool = False) -> "tuple[SimHost, Manager]":
        """The first manager that listens; if asked for, one that does not turn sessions away at the
        door."""
        for _, address in self._rng.sample(self.managers, len(self.managers)):
            host = self.peers(address)
            if host is None or not self._network.is_open(self.name, host.name):
                await asyncio.sleep(CONNECT_TIMEOUT)
                continue
            await asyncio.sleep(3 * self._network.latency(self.name, host.name))
            if (
                host.manager is not None
                and (host.manager.is_serving or not serving)
                and self._trust(host)
            ):
                return host, host.manager
        raise Unavailable("cannot reach a manager")

    def _trust(self, other: "SimHost") -> bool:
        """Each the other, as mutual TLS would find out."""
        if self.credentials is None or other.credentials is None:
            return False
        try:
            verify(other.credentials.certificate, self.credentials.root, self.clock())
            verify(self.credentials.certificate, other.credentials.root, other.clock())
        except InvalidArgument:
            return False
        return True

    async def _manager_at(self, address: str) -> "tuple[SimHost, Manager]":
        host = self.peers(address)
        if (
            host is None
            or host.manager is None
            or not (self._network.is_open(self.name, host.name) and self._trust(host))
        ):
            raise Unavailable(f"cannot reach manager {address}")
        await asyncio.sleep(3 * self._network.latency(self.name, host.name))
        return host, host.manager

    async def _relay(self, address: str, request: PublishRequest) -> None:
        assert self.identity is not None
        host, manager = await self._manager_at(address)
        await self._ask(host, manager.pass_on(self.identity, request))

    async def _ask_keys(self, address: str) -> Sequence[SealingKey]:
        assert self.identity is not None
        host, manager = await self._manager_at(address)
        grant: SealingKeyGrant = await self._ask(host, manager.sealing_keys(self.identity))
        return grant.keys

    async def _publish(self, address: str, subscription: str) -> StreamSink:
        assert self.identity is not None
        host, manager = await self._manager_at(address)
        logs = MemoryStream(self.identity, lambda: self._network.passable(self.name, host.name))
        self.published.append(logs)
        host.taken.append(logs)
        taking = self._processes.spawn(host.name, _take(manager, logs, subscription))
        accepted = asyncio.ensure_future(logs.accepted.wait())
        await asyncio.wait((taking, accepted), return_when=asyncio.FIRST_COMPLETED)
        if not accepted.done():
            accepted.cancel()
            await _answer(taking)
        return logs

    async def _ask(self, host: "SimHost", work: Any) -> Any:
        """Done in the manager's process; its answer."""
        return await _answer(self._processes.spawn(host.name, work))

    async def _connect(self) -> AgentSession:
        host, manager = await self._reached(serving=True)
        assert self.identity is not None
        theirs, ours = self._network.connect(
            self.name, host.name, self.identity, str(self.address), str(host.address)
        )
        self._processes.spawn(host.name, _serve(manager, theirs))
        return ours


async def _answer(task: asyncio.Task[Any]) -> Any:
    """Of a task in another process, which may die."""
    await asyncio.wait((task,))
    if task.cancelled():
        raise Unavailable("the manager has died")
    return task.result()


async def _take(manager: Manager, logs: MemoryStream, subscription: str) -> None:
    try:
        await manager.take_stream(logs, subscription)
    finally:
        await logs.close()


async def _serve(manager: Manager, session: ManagerSession) -> None:
    """What the session listener does."""
    try:
        await manager.serve(session)
    except WeftError as cause:
        await session.close(str(cause))


async def _open_resolver(
    path: Path, address: IPv4Address, port: int
) -> tuple[socket.socket, socket.socket]:
    """Nobody asks."""
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    for each in (udp, tcp):
        each.setblocking(False)
        each.bind(("127.0.0.1", 0))
    tcp.listen()
    return udp, tcp
