"""Joining and sessions over real TLS on loopback: who gets in, who does not, and what passes
through."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import cast

import pytest

from weft.errors import (
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    OperationFailed,
    Unavailable,
    WeftError,
)
from weft.model.attached import AttachedContainer, AttachmentGrant, AttachmentWanted
from weft.model.cluster import JoinTokens, RootCa
from weft.model.ids import ClusterId, ContainerId, NetworkId, NodeId, TaskId
from weft.model.meta import SECOND
from weft.model.node import NodeDescription, Role
from weft.pki import authority, tokens
from weft.session.attachments import AttachmentClient
from weft.session.base import (
    AdmissionRequest,
    Admitted,
    AttachmentRequest,
    Identity,
    ManagerSession,
    MemberGrant,
    MemberRequest,
    SessionClosed,
)
from weft.session.base import Manager as SessionManager
from weft.session.client import Connector, EpochClient, MemberClient, join
from weft.session.deadlines import USUAL
from weft.session.identity import Credentials, CredentialSource, IdentityStore, Member, new_key
from weft.session.messages import Goodbye, Heartbeat, Hello, Welcome
from weft.session.server import SessionServer

CLUSTER = ClusterId("c1")


class Echo:
    """A manager that admits by token, welcomes, and remembers whom it served."""

    is_serving = True
    epoch = 7

    def knows(self, address: str) -> bool:
        return False

    def __init__(self, root: RootCa) -> None:
        self.root = root
        self.tokens = JoinTokens(
            *(tokens.make_token(root.certificate, os.urandom(16)) for _ in range(2))
        )
        self.served: list[tuple[str, Role]] = []
        self.refusal: WeftError | None = None

    async def admit(self, request: AdmissionRequest, source: str) -> Admitted:
        role = tokens.role_of(request.token, self.tokens)
        if role is None:
            raise Forbidden("invalid join token")
        node = NodeId(request.hostname)
        certificate = issue(self.root, node, role, request.csr)
        return Admitted(
            node=node,
            role=role,
            certificate=certificate,
            root_certificate=self.root.certificate,
            cluster=CLUSTER,
            managers=(),
        )

    async def enlist(self, peer: Identity, request: MemberRequest) -> MemberGrant:
        return MemberGrant(peers=(("m1", "https://10.0.0.1:2380"), (peer.node, request.peer_url)))

    async def attach(self, peer: Identity, request: AttachmentRequest) -> AttachmentGrant:
        if (refusal := self.refusal) is not None:
            raise refusal
        address = IPv4Interface("10.0.9.5/24")
        return AttachmentGrant(
            network=NetworkId(peer.node), name=request.wanted.network, address=address
        )

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
    return authority.issue(
        root,
        csr,
        authority.NodeCertificate(
            node=node,
            role=role,
            cluster=cluster,
            begin=time.time_ns(),
            lifetime=3600 * SECOND,
            serial=5,
        ),
    )


def credentials(root: RootCa, node: str, role: Role, cluster: ClusterId = CLUSTER) -> Credentials:
    key = new_key()
    certificate = issue(root, NodeId(node), role, authority.request(key), cluster)
    return Credentials(certificate, authority.private_pem(key), root.certificate)


def credential_source(credentials: Credentials) -> CredentialSource:
    """That nobody keeps on disk."""
    return CredentialSource(credentials, lambda _: None)


def new_root() -> RootCa:
    return authority.root(new_key(), time.time_ns(), 1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def listening(role: Role = "manager") -> AsyncIterator[tuple[Echo, str]]:
    manager = Echo(new_root())
    server = SessionServer(
        cast(SessionManager, manager),
        CLUSTER,
        credential_source(credentials(manager.root, "m1", role)),
    )
    address = f"127.0.0.1:{free_port()}"
    await server.start(address)
    try:
        yield manager, address
    finally:
        await server.close()


def asking(token: str) -> Callable[[str], AdmissionRequest]:
    return lambda csr: AdmissionRequest(
        token=token, csr=csr, hostname="w1", data_path_address=IPv4Address("10.0.0.9")
    )


def hello(node: str) -> Hello:
    return Hello(node=NodeId(node), description=NodeDescription(), data_path_address="10.0.0.9")


def test_join_then_session() -> None:
    async def main() -> None:
        async with listening() as (manager, address):
            token = manager.tokens.worker
            admitted, mine = await join([address], asking(token), token)
            assert (admitted.node, admitted.role) == ("w1", "worker")
            session = await Connector(credential_source(mine), lambda: ["127.0.0.1:1", address])()
            await session.send(hello("w1"))
            assert await session.receive() == Welcome(heartbeat=SECOND, managers=())
            await session.send(Heartbeat())
            await session.close("done")
            assert manager.served == [("w1", "worker")]

    asyncio.run(main())


def test_who_was_refused_by_two_managers_asks_the_third() -> None:
    """Both may be of an earlier epoch: they take the connection, and say goodbye."""
    root = new_root()
    managers = ["a:1", "b:1", "c:1"]
    connector = Connector(credential_source(credentials(root, "w1", "worker")), lambda: managers)
    for had, order in (
        ([], "abc"),
        (["a:1"], "bca"),
        (["a:1", "b:1"], "cab"),
        (["b:1", "c:1", "a:1"], "bca"),
    ):
        connector._had = list(had)
        assert "".join(address[0] for address in sorted(managers, key=connector._turn)) == order


def test_a_manager_that_was_lost_is_not_asked_while_the_others_elect_a_leader() -> None:
    """Its host may be gone, and then it takes long to find that it does not answer."""

    async def main() -> None:
        async with listening() as (manager, address):
            mine = credential_source(credentials(manager.root, "w1", "worker"))
            connector = Connector(mine, lambda: [gone, address])
            with socket.create_server(("127.0.0.1", 0)) as silent:
                silent.setblocking(False)
                gone = f"127.0.0.1:{silent.getsockname()[1]}"
                connector._had = [gone]
                manager.is_serving = False
                with pytest.raises(
                    Unavailable, match=f"cannot reach a manager: {address}: status 503$"
                ):
                    await connector()
                with pytest.raises(BlockingIOError):
                    silent.accept()
                assert connector._since is not None
                connector._since -= USUAL.election
                asking = asyncio.create_task(connector())
                connection, _ = await asyncio.get_running_loop().sock_accept(silent)
                connection.close()
                with pytest.raises(Unavailable, match=gone):
                    await asking
                manager.is_serving = True
                session = await connector()
                assert session.address == "127.0.0.1"
                await session.send(hello("w1"))
                await session.receive()
                await session.close("done")

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
                session = await Connector(credential_source(trusting), lambda: [address])()
                await session.receive()
            foreigner = credentials(manager.root, "w1", "worker", ClusterId("c2"))
            with pytest.raises(Forbidden):
                await Connector(credential_source(foreigner), lambda: [address])()
            assert manager.served == []

    asyncio.run(main())


def test_a_worker_cannot_pose_as_a_manager() -> None:
    async def main() -> None:
        async with listening("worker") as (manager, address):
            mine = credentials(manager.root, "w1", "worker")
            with pytest.raises(Unavailable):
                await Connector(credential_source(mine), lambda: [address])()
            token = manager.tokens.worker
            with pytest.raises(Unavailable):
                await join([address], asking(token), token)

    asyncio.run(main())


MEMBER = Member(
    node=NodeId("n"), cluster=CLUSTER, role="worker", advertise_address=IPv4Address("10.0.0.1"),
    data_path_address=IPv4Address("10.0.0.2"), listen_address="0.0.0.0:2377", managers=((NodeId("m"), "10.0.0.3:2377"),),
)  # fmt: skip
OLD, NEW = (
    Credentials("old certificate", "old key", "root"),
    Credentials("new certificate", "new key", "root"),
)


def test_membership_on_disk(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "swarm")
    assert store.load() is None
    store.save(MEMBER, OLD)
    assert store.load() == (MEMBER, OLD)
    store.save_credentials(NEW)
    assert store.load() == (MEMBER, NEW)
    assert (tmp_path / "swarm" / "node.crt").read_text() == NEW.certificate, (
        "the store of a manager reads it under this name"
    )
    assert (tmp_path / "swarm" / "node.key").stat().st_mode & 0o077 == 0
    assert (
        len(
            [
                path
                for path in (tmp_path / "swarm").iterdir()
                if path.is_dir() and not path.is_symlink()
            ]
        )
        == 1
    )
    store.erase()
    assert store.load() is None


def test_credentials_of_an_older_daemon(tmp_path: Path) -> None:
    """They were three files."""
    store = IdentityStore(tmp_path)
    store.save_member(MEMBER)
    for name, text in (
        ("node.crt", OLD.certificate),
        ("node.key", OLD.key),
        ("root.crt", OLD.root),
    ):
        (tmp_path / name).write_text(text)
    assert store.load() == (MEMBER, OLD)
    store.save_credentials(NEW)
    assert store.load() == (MEMBER, NEW)


class PowerCut(Exception):
    pass


class Failing(IdentityStore):
    """The power goes when the n-th name is put in place."""

    def __init__(self, directory: Path, left: int) -> None:
        super().__init__(directory)
        self.left = left

    def _link(self, name: str, target: str) -> None:
        if self.left == 0:
            raise PowerCut
        self.left -= 1
        super()._link(name, target)


@pytest.mark.parametrize("before", ["files", "a directory"])
def test_no_certificate_is_ever_beside_another_ones_key(tmp_path: Path, before: str) -> None:
    for left in range(5):
        store = Failing(tmp_path / str(left), 100)
        if before == "files":
            store.directory.mkdir()
            store.save_member(MEMBER)
            for name, text in (
                ("node.crt", OLD.certificate),
                ("node.key", OLD.key),
                ("root.crt", OLD.root),
            ):
                (store.directory / name).write_text(text)
        else:
            store.save(MEMBER, OLD)
        store.left = left
        try:
            store.save_credentials(NEW)
        except PowerCut:
            assert left < 4
        assert IdentityStore(store.directory).load() == (MEMBER, OLD if left == 0 else NEW)
        IdentityStore(store.directory).save_credentials(NEW)
        names = ("node.crt", "node.key", "root.crt")
        assert [(store.directory / name).read_text() for name in names] == [
            NEW.certificate,
            NEW.key,
            NEW.root,
        ]


def test_a_wallet_that_cannot_be_saved_stays_as_it_is(tmp_path: Path) -> None:
    def full(_: Credentials) -> None:
        raise OperationFailed("cannot write credentials: no space left on device")

    heard: list[Credentials] = []
    held = CredentialSource(OLD, full)
    held.subscribe(heard.append)
    with pytest.raises(OperationFailed):
        held.replace(NEW)
    assert (held.credentials, heard) == (OLD, [])


# --- credentials that change while the listener stands


def test_each_connection_gets_the_newest_certificate_and_none_is_dropped() -> None:
    """Sessions go on that began under another certificate, and one under another root; a client of
    the old root is turned away, by itself or by the listener."""

    async def main() -> None:
        manager, new = Echo(new_root()), new_root()
        held = credential_source(credentials(manager.root, "m1", "manager"))
        server = SessionServer(cast(SessionManager, manager), CLUSTER, held)
        address = f"127.0.0.1:{free_port()}"
        await server.start(address)
        try:
            old_client = Connector(
                credential_source(credentials(manager.root, "w1", "worker")), lambda: [address]
            )
            first = await old_client()
            await first.send(hello("w1"))
            held.replace(credentials(manager.root, "m1", "manager"))
            second = await old_client()
            await second.send(hello("w1"))
            held.replace(credentials(new, "m1", "manager"))
            with pytest.raises(Unavailable):
                await old_client()
            fresh = credential_source(credentials(new, "w2", "worker"))
            newest = Connector(fresh, lambda: [address])
            third = await newest()
            await third.send(hello("w2"))
            for session in (first, second, third):
                assert await session.receive() == Welcome(heartbeat=SECOND, managers=())
            believes = credentials(manager.root, "w3", "worker")
            fresh.replace(Credentials(believes.certificate, believes.key, new.certificate))
            with pytest.raises((Unavailable, SessionClosed)):
                await (await newest()).receive()
            for session in (first, second, third):
                await session.send(Heartbeat())
                await session.close("done")
        finally:
            await server.close()

    asyncio.run(main())


# --- what is the managers'


def test_managers_ask_managers() -> None:
    async def main() -> None:
        async with listening() as (manager, address):
            ask = MemberRequest(peer_url="https://10.0.0.9:2380", manager_address="10.0.0.9:2377")
            client = MemberClient(
                credential_source(credentials(manager.root, "m2", "manager")),
                lambda: ["127.0.0.1:1", address],
            )
            assert (await client.enlist(ask)).peers[-1] == ("m2", ask.peer_url)
            with pytest.raises(FailedPrecondition, match="m2 has not caught up"):
                await client.admit_vote()
            nobody = MemberClient(
                credential_source(credentials(manager.root, "m2", "manager")),
                lambda: ["127.0.0.1:1"],
            )
            with pytest.raises(Unavailable, match="cannot reach a manager: 127.0.0.1:1"):
                await nobody.admit_vote()

    asyncio.run(main())


PLACE = AttachmentRequest(
    id=TaskId("t1"),
    wanted=AttachmentWanted(
        network="net", container=AttachedContainer(container=ContainerId("c1"), name="web")
    ),
)


@pytest.mark.parametrize(
    "refusal",
    [
        NotFound("network net not found"),
        Forbidden("network net not manually attachable"),
        InvalidArgument("address 10.0.9.5 is outside"),
        Conflict("address 10.0.9.5 is in use"),
        FailedPrecondition("no address is left"),
    ],
)
def test_a_node_asks_for_places_of_its_containers(refusal: WeftError) -> None:
    async def main() -> None:
        async with listening() as (manager, address):
            mine = credential_source(credentials(manager.root, "w1", "worker"))
            client = AttachmentClient(mine, lambda: ["127.0.0.1:1", address])
            assert (await client(PLACE)).network == "w1", "as the certificate says"
            manager.refusal = refusal
            with pytest.raises(type(refusal)) as error:
                await client(PLACE)
            assert str(error.value) == str(refusal)

    asyncio.run(main())


def test_a_node_that_gets_no_place_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with listening() as (manager, address):
            mine = credential_source(credentials(manager.root, "w1", "worker"))
            manager.refusal = Unavailable("this manager has no majority of the managers")
            with pytest.raises(Unavailable, match=f"{address}: this manager has no majority"):
                await AttachmentClient(mine, lambda: [address])(PLACE)
            with pytest.raises(Unavailable, match="cannot reach a manager: none known"):
                await AttachmentClient(mine, list)(PLACE)
            with pytest.raises(Unavailable, match="the swarm is locked"):
                await AttachmentClient(mine, lambda: [address], lambda: "the swarm is locked")(
                    PLACE
                )
            monkeypatch.setattr("weft.session.attachments.PATH", "/v1/of-a-later-daemon")
            with pytest.raises(Unavailable, match=f"{address}: its daemon is too old"):
                await AttachmentClient(mine, lambda: [address])(PLACE)

    asyncio.run(main())


def test_a_manager_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    async def main() -> None:
        silent = await asyncio.start_server(nothing, "127.0.0.1", 0)
        host, port = silent.sockets[0].getsockname()
        async with silent, listening() as (manager, address):
            mine = credential_source(credentials(manager.root, "w1", "worker"))
            managers = [f"{host}:{port}", address]
            monkeypatch.setattr("weft.session.attachments.EACH", 0.5)
            with pytest.raises(Unavailable, match=f"{host}:{port}: no answer within 0.5 s"):
                await AttachmentClient(mine, lambda: managers[:1])(PLACE)
            monkeypatch.setattr("weft.session.attachments.EACH", 4.0)
            assert (await AttachmentClient(mine, lambda: managers)(PLACE)).network == "w1"

    asyncio.run(main())


def test_managers_are_asked_for_their_epoch() -> None:
    async def main() -> None:
        async with listening() as (manager, address):
            mine = credential_source(credentials(manager.root, "m2", "manager"))
            assert await EpochClient(mine)(address) == 7
            with pytest.raises(
                Unavailable, match=rf"cannot ask manager {address}: .*certificate 5 was revoked"
            ):
                await EpochClient(mine, "5".__eq__)(address)
            with pytest.raises(Forbidden, match="not of this cluster"):
                another = credentials(manager.root, "m2", "manager", ClusterId("another"))
                await EpochClient(credential_source(another))(address)
            with pytest.raises(Unavailable, match="cannot ask manager 127.0.0.1:1"):
                await EpochClient(mine)("127.0.0.1:1")
        async with listening("worker") as (manager, address):
            mine = credential_source(credentials(manager.root, "m2", "manager"))
            with pytest.raises(Unavailable, match="certificate"):
                await EpochClient(mine)(address)

    asyncio.run(main())
