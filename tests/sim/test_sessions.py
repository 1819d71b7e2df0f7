"""Joining and sessions over real TLS on loopback: who gets in, who does not, and what passes through."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from weft.cluster.base import AdmissionRequest, Admitted, Identity, ManagerSession, MemberGrant, MemberRequest, SessionClosed
from weft.cluster.client import Connector, join
from weft.cluster.identity import Credentials, IdentityStore, Member, Wallet, new_key
from weft.cluster.messages import Goodbye, Heartbeat, Hello, Welcome
from weft.cluster.server import SessionServer
from weft.errors import FailedPrecondition, Forbidden, InvalidArgument, Unavailable
from weft.model.cluster import JoinTokens, RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.model.node import NodeDescription, Role
from weft.pki import authority, tokens

CLUSTER = ClusterId("c1")


class Echo:
    """A manager that admits by token, welcomes, and remembers whom it served."""

    def __init__(self, root: RootCa) -> None:
        self.root = root
        self.tokens = JoinTokens(*(tokens.make_token(root.certificate, os.urandom(16)) for _ in range(2)))
        self.served: list[tuple[str, Role]] = []

    async def admit(self, request: AdmissionRequest) -> Admitted:
        role = tokens.role_of(request.token, self.tokens)
        if role is None:
            raise Forbidden("invalid join token")
        node = NodeId(request.hostname)
        certificate = issue(self.root, node, role, request.csr)
        return Admitted(
            node=node, role=role, certificate=certificate, root_certificate=self.root.certificate, cluster=CLUSTER, managers=()
        )

    async def enlist(self, peer: Identity, request: MemberRequest) -> MemberGrant:
        return MemberGrant((*((f"m{i}", "https://10.0.0.1:2380") for i in range(2)), (peer.node, request.peer_url)))

    async def admit_vote(self, peer: Identity) -> None:
        raise FailedPrecondition(f"{peer.node} has not caught up")

    async def serve(self, session: ManagerSession) -> None:
        hello = await session.receive()
        assert isinstance(hello, Hello)
        self.served.append((session.peer.node, session.peer.role))
        await session.send(Welcome(heartbeat=SECOND, managers=()))
        while not isinstance(await session.receive(), Goodbye):
            pass


def issue(root: RootCa, node: NodeId, role: Role, csr: str, cluster: ClusterId = CLUSTER) -> str:
    return authority.issue(root, csr, node, role, cluster, time.time_ns(), 3600 * SECOND, 5)


def credentials(root: RootCa, node: str, role: Role, cluster: ClusterId = CLUSTER) -> Credentials:
    key = new_key()
    certificate = issue(root, NodeId(node), role, authority.request(key), cluster)
    return Credentials(certificate, authority.private_pem(key), root.certificate)


def wallet(credentials: Credentials) -> Wallet:
    """That nobody keeps on disk."""
    return Wallet(credentials, lambda _: None)


def new_root() -> RootCa:
    return authority.root(new_key(), time.time_ns(), 1)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def listening(role: Role = "manager") -> AsyncIterator[tuple[Echo, str]]:
    manager = Echo(new_root())
    server = SessionServer(manager, CLUSTER, wallet(credentials(manager.root, "m1", role)))
    address = f"127.0.0.1:{free_port()}"
    await server.start(address)
    try:
        yield manager, address
    finally:
        await server.close()


def asking(token: str):  # type: ignore[no-untyped-def]
    return lambda csr: AdmissionRequest(token=token, csr=csr, hostname="w1", data_path_address=IPv4Address("10.0.0.9"))


def hello(node: str) -> Hello:
    return Hello(node=NodeId(node), description=NodeDescription(), data_path_address="10.0.0.9")


def test_join_then_session() -> None:
    async def main() -> None:
        async with listening() as (manager, address):
            token = manager.tokens.worker
            admitted, mine = await join([address], asking(token), token)
            assert (admitted.node, admitted.role) == ("w1", "worker")
            session = await Connector(wallet(mine), lambda: ["127.0.0.1:1", address])()
            await session.send(hello("w1"))
            assert await session.receive() == Welcome(heartbeat=SECOND, managers=())
            await session.send(Heartbeat())
            await session.close("done")
            assert manager.served == [("w1", "worker")]

    asyncio.run(main())


def test_who_does_not_get_in() -> None:
    async def main() -> None:
        async with listening() as (manager, address):
            other = new_root()
            of_another_swarm = tokens.make_token(other.certificate, os.urandom(16))
            with pytest.raises(Forbidden, match="does not match fingerprint"):
                await join([address], asking(of_another_swarm), of_another_swarm)
            forged = tokens.make_token(manager.root.certificate, os.urandom(16))
            with pytest.raises(Forbidden, match="invalid join token"):
                await join([address], asking(forged), forged)
            with pytest.raises(InvalidArgument):
                await join([address], asking("SWMTKN"), "SWMTKN")
            stranger = credentials(other, "w1", "worker")
            trusting = Credentials(stranger.certificate, stranger.key, manager.root.certificate)
            with pytest.raises((Unavailable, SessionClosed)):
                session = await Connector(wallet(trusting), lambda: [address])()
                await session.receive()
            foreigner = credentials(manager.root, "w1", "worker", ClusterId("c2"))
            with pytest.raises(Forbidden):
                await Connector(wallet(foreigner), lambda: [address])()
            assert manager.served == []

    asyncio.run(main())


def test_a_worker_cannot_pose_as_a_manager() -> None:
    async def main() -> None:
        async with listening("worker") as (manager, address):
            mine = credentials(manager.root, "w1", "worker")
            with pytest.raises(Unavailable):
                await Connector(wallet(mine), lambda: [address])()
            token = manager.tokens.worker
            with pytest.raises(Unavailable):
                await join([address], asking(token), token)

    asyncio.run(main())


def test_membership_on_disk(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "swarm")
    assert store.load() is None
    member = Member(
        node=NodeId("n"), cluster=CLUSTER, role="worker", advertise_address=IPv4Address("10.0.0.1"),
        data_path_address=IPv4Address("10.0.0.2"), listen_address="0.0.0.0:2377", managers=((NodeId("m"), "10.0.0.3:2377"),),
    )  # fmt: skip
    store.save(member, Credentials("certificate", "key", "root"))
    assert store.load() == (member, Credentials("certificate", "key", "root"))
    assert (tmp_path / "swarm" / "node.key").stat().st_mode & 0o077 == 0
    store.erase()
    assert store.load() is None
