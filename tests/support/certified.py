"""Nodes with real certificates and nothing else: a manager with the real authority, and agents that
keep a session with it.

`Swarm` joins them in this process, in virtual time; `Swarm.listen` puts the manager behind its real
listener on loopback. An agent here is the `Uplink` of a real one, with its wallet: no kernel, no
tasks.
"""

import asyncio
import itertools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import msgspec

from weft.agent.adapters import Adapters, CertificateAdapters, ManagerAdapters
from weft.agent.uplink import Uplink
from weft.engine.adapters import Origin
from weft.errors import Unavailable, WeftError
from weft.manager.authority import PkiAuthority
from weft.manager.bootstrap import Founder, create_swarm
from weft.manager.manager import Manager
from weft.manager.ports import ManagerPorts
from weft.manager.vault import KeysInMemory
from weft.model.cluster import ClusterSpec, RootCa
from weft.model.ids import NodeId
from weft.model.membership import InitRequest
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import NodeDescription, NodeState, Role
from weft.model.sandbox import NodeFacts
from weft.pki import authority
from weft.pki.certificate import fingerprint, holder, signer_id
from weft.pki.stored_secrets import opened_root
from weft.session import tls
from weft.session.base import AdmissionRequest, AgentSession, Connect
from weft.session.client import Connector
from weft.session.fake import session_pair
from weft.session.identity import Credentials, CredentialSource
from weft.session.listener import LIMITS, Limits
from weft.session.messages import Publish
from weft.session.server import SessionServer
from weft.store.memory import MemoryStore
from weft.store.sole import SoleLeader

END = "-----END CERTIFICATE-----"
HOUR: Nanoseconds = 3600 * SECOND


class Asked:
    """`uplink.Streams` of an agent that leaves them to the test."""

    kinds = ("logs",)

    def __init__(self) -> None:
        self.asked: list[Publish] = []

    def ask(self, publish: Publish) -> None:
        self.asked.append(publish)


class Member:
    """One node's agent."""

    def __init__(self, swarm: "Swarm", credentials: Credentials, address: IPv4Address) -> None:
        self.node = holder(credentials.certificate).node
        self.credential_source = CredentialSource(credentials, lambda _: None)
        self.address = address
        self.changes: list[Role] = []
        """A role for each time that there were other credentials."""
        self.managers: tuple[tuple[NodeId, str], ...] = ()
        """As the last manager named them."""
        self.connect: Connect = lambda: swarm.connect(self)
        adapters = Adapters(
            managers=ManagerAdapters(connect=lambda: self.connect(), changed=self._remember),
            certificate=CertificateAdapters(
                credential_source=self.credential_source,
                advertise_address=str(address),
                changed=lambda _, role: self.changes.append(role),
            ),
            description=lambda: NodeDescription(hostname=str(address)),
            origin=Origin(clock=swarm.clock, entropy=swarm.entropy),
        )
        self.streams = Asked()
        facts = NodeFacts(node=self.node, data_path_address=address)
        self.uplink = Uplink(adapters, facts, dict, lambda _: None, streams=self.streams)
        self.running: asyncio.Task[None] | None = None

    @property
    def asked(self) -> list[Publish]:
        return self.streams.asked

    @property
    def role(self) -> Role:
        return holder(self.credential_source.credentials.certificate).role

    def _remember(self, managers: tuple[tuple[NodeId, str], ...]) -> None:
        self.managers = managers

    def start(self) -> None:
        self.running = asyncio.create_task(self.uplink.run())

    async def stop(self) -> None:
        """Its host is gone, or cut off."""
        if self.running is not None:
            self.running.cancel()
            await asyncio.wait([self.running])


class Swarm:
    """`founder` is the manager's own node."""

    def __init__(
        self, store: MemoryStore, clock: Callable[[], Nanoseconds], entropy: Callable[[int], bytes]
    ) -> None:
        self.store = store
        self.clock = clock
        self.entropy = entropy
        self.address = ""
        """Of the listener; sessions are in memory while there is none."""
        self.is_reachable = True
        self._numbers = itertools.count(11)
        self._serving: set[asyncio.Task[None]] = set()
        self.members: list[Member] = []
        self.sealing_keys = KeysInMemory()
        self.manager: Manager
        self.founder: Member

    def open_root(self, root: RootCa) -> RootCa:
        return opened_root(root, {key.id: key for key in self.sealing_keys.read()}.get)

    async def join(self, role: Role = "worker") -> Member:
        """As `client.join` does it, on the way that a session takes as well."""
        key = authority.make_key(self.entropy)
        address = IPv4Address("127.0.0.1") + next(self._numbers)
        token = getattr(await self.manager.swarm.join_tokens(), role)
        admitted = await self.manager.admit(
            AdmissionRequest(
                token=token,
                csr=authority.request(key),
                hostname=str(address),
                data_path_address=address,
                advertise_address=str(address),
            )
        )
        return self.add(
            Credentials(
                admitted.certificate, authority.private_pem(key), admitted.root_certificate
            ),
            address,
        )

    def add(self, credentials: Credentials, address: IPv4Address) -> Member:
        member = Member(self, credentials, address)
        self.members.append(member)
        member.start()
        return member

    async def connect(self, member: Member, manager: Manager | None = None) -> AgentSession:
        """`manager`: another one of this swarm."""
        if not self.is_reachable:
            raise Unavailable("no manager is in reach")
        if self.address:
            return await Connector(member.credential_source, lambda: [self.address])()
        shown = ssl.PEM_cert_to_DER_cert(
            member.credential_source.credentials.certificate.partition("-----END")[0] + END
        )
        peer = tls.identity(shown, self.manager.swarm.cluster.id)
        ours, theirs = session_pair(peer, str(member.address))

        async def serve() -> None:
            reason = "internal error"
            try:
                await (manager or self.manager).serve(ours)
            except WeftError as cause:
                reason = str(cause)
            finally:  # in any case: who waits for a message in virtual time waits for ever
                await ours.close(reason)

        task = asyncio.create_task(serve())
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return theirs

    @asynccontextmanager
    async def listen(
        self, limits: Limits = LIMITS, host: str = "127.0.0.1"
    ) -> AsyncIterator[SessionServer]:
        server = SessionServer(
            self.manager, self.manager.swarm.cluster.id, self.founder.credential_source, limits
        )
        self.address = f"{host}:{free_port()}"
        await server.start(self.address)
        try:
            yield server
        finally:
            await server.close()

    async def until(self, condition: Callable[..., object], seconds: float = 60) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition():
            assert loop.time() < deadline, f"not after {seconds} s"
            await asyncio.sleep(0.01)


@asynccontextmanager
async def swarm(
    clock: Callable[[], Nanoseconds],
    workers: int = 2,
    expiry: Nanoseconds = HOUR,
    heartbeat: Nanoseconds = 5 * SECOND,
) -> AsyncIterator[Swarm]:
    entropy = random.Random(1).randbytes
    store = MemoryStore(clock)
    own = Swarm(store, clock, entropy)
    root = authority.root(authority.make_key(entropy), clock(), authority.make_serial(entropy))
    address = IPv4Address("127.0.0.1")
    founder = Founder(
        description=NodeDescription(), data_path_address=address, manager_address="127.0.0.1:2377"
    )
    request = InitRequest(spec=ClusterSpec(certificate_expiry=expiry, heartbeat=heartbeat))
    cluster, node = await create_swarm(store, request, founder, root, PkiAuthority(), entropy)
    ports = ManagerPorts(
        clock=clock, entropy=entropy, authority=PkiAuthority(), sealing_keys=own.sealing_keys
    )
    own.manager = Manager(NodeId(node.id), store, SoleLeader(node.id), ports)
    key = authority.make_key(entropy)
    certificate = authority.issue(
        root,
        authority.request(key),
        authority.NodeCertificate(
            node=node.id,
            role="manager",
            cluster=cluster.id,
            begin=clock(),
            lifetime=expiry,
            serial=authority.make_serial(entropy),
            addresses=(address,),
        ),
    )
    async with own.manager:
        own.founder = own.add(
            Credentials(certificate, authority.private_pem(key), root.certificate), address
        )
        for _ in range(workers):
            await own.join()
        try:
            yield own
        finally:
            for member in own.members:
                await member.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready(swarm: Swarm) -> bool:
    return all(m.uplink.connected for m in swarm.members) and all(
        node.status.state is NodeState.READY for node in swarm.manager.swarm.state.nodes.values()
    )


async def rotate(swarm: Swarm) -> None:
    cluster = swarm.manager.swarm.cluster
    spec = msgspec.structs.replace(cluster.spec, force_rotate=cluster.spec.force_rotate + 1)
    await swarm.manager.swarm.update_cluster(cluster.meta.version, spec, False, False)


def settled(swarm: Swarm, root: str) -> bool:
    """Every node has a certificate of this root and trusts it, and the manager knows."""
    cluster = swarm.manager.swarm.cluster
    shown = {
        (node.certificate.issuer, node.certificate.trusted)
        for node in swarm.manager.swarm.state.nodes.values()
    }
    return (
        cluster.rotation is None
        and cluster.root_ca.certificate == root
        and shown == {(signer_id(root), fingerprint(root))}
    )
