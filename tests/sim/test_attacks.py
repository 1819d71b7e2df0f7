"""What somebody may try at a manager's port, against the real listener on loopback with a real manager behind it.

Each time an ordinary agent has a session all the while, and afterwards another one joins: whatever was tried, the manager goes on.
"""

import asyncio
import os
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from typing import TypeVar

import aiohttp
import msgspec
import pytest
import uvloop

from tests.support.certified import HOUR, Member, Swarm, free_port, swarm
from weft.errors import FailedPrecondition, Forbidden, InvalidArgument, Unavailable
from weft.manager import dispatch
from weft.model import codec
from weft.model.container import LogLine
from weft.model.ids import ClusterId, NodeId, TaskId
from weft.model.logs import LogsWanted, TaskLog
from weft.model.node import NodeDescription, Role
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.pki import authority, tokens
from weft.session import listener, tls
from weft.session import server as session_server
from weft.session.base import AdmissionRequest, Admitted, LogRequest, ManagerSession, MemberRequest, SessionClosed
from weft.session.client import Connector, MemberClient, join
from weft.session.identity import Credentials, Wallet
from weft.session.listener import LIMITS, Limits
from weft.session.logs import LogConnector, ManagerRelay
from weft.session.messages import (
    MAX_FROM_AGENT,
    MAX_LOG_LINES,
    Goodbye,
    Heartbeat,
    Hello,
    LogLines,
    LogsEnd,
    PublishLogs,
    StatusUpdate,
    Trust,
)
from weft.session.server import SessionServer
from weft.system.crowd import CrowdLimits
from weft.system.doorway import DoorLimits

T = TypeVar("T")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop,
}  # fmt: skip
each_loop = pytest.mark.parametrize("loop", list(LOOPS))
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""aiohttp leaves a socket that is reset while it connects to the garbage collector, now and then."""


def run(attack: Callable[[Swarm, SessionServer], Awaitable[None]], limits: Limits = LIMITS, loop: str = "asyncio") -> None:
    async def main() -> None:
        async with swarm(time.time_ns, workers=0) as target, target.listen(limits) as server:
            await again(target.founder)
            agent = await target.join()
            await target.until(lambda: agent.uplink.connected)
            sessions = [agent, target.founder]
            opened = [member.uplink.connected for member in sessions]
            await attack(target, server)
            assert [member.uplink.connected for member in sessions] == opened
            late = await target.join()
            await target.until(lambda: late.uplink.connected)
            for member in target.members:
                await member.stop()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def again(member: Member) -> None:
    """Its session was in memory; now it goes to the listener."""
    await member.stop()
    member.start()


def wallet(credentials: Credentials) -> Wallet:
    return Wallet(credentials, lambda _: None)


def made(
    target: Swarm, node: str, role: Role = "worker", cluster: str = "", root: authority.RootCa | None = None, begin: int = 0
) -> Credentials:
    """Credentials of the swarm, but for what is said."""
    own = target.manager.cluster
    key = authority.make_key(os.urandom)
    certificate = authority.issue(
        root or own.root_ca, authority.request(key), NodeId(node), role, ClusterId(cluster or own.id), begin or time.time_ns(),
        HOUR, 5,
    )  # fmt: skip
    return Credentials(certificate, authority.private_pem(key), own.root_ca.certificate)


def new_root() -> authority.RootCa:
    return authority.root(authority.make_key(os.urandom), time.time_ns(), 1)


def asking(token: str, csr: str = "") -> Callable[[str], AdmissionRequest]:
    return lambda own: AdmissionRequest(
        token=token, csr=csr or own, hostname="attacker", data_path_address=IPv4Address("127.0.0.66")
    )  # fmt: skip


async def refused_session(target: Swarm, credentials: Credentials, node: str) -> str:
    """Why there is none."""
    try:
        session = await Connector(wallet(credentials), lambda: [target.address])()
        await session.send(Hello(node=NodeId(node), description=NodeDescription(), data_path_address="127.0.0.66"))
        answer = await session.receive()
        await session.close("")
    except (SessionClosed, Unavailable, Forbidden) as error:
        return str(error)
    assert isinstance(answer, Goodbye), f"got a session and {answer}"
    return answer.reason


# --- false papers


def test_forged_and_foreign_tokens() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        own = target.manager.cluster
        before = set(target.manager.state.nodes)
        forged = tokens.make_token(own.root_ca.certificate, os.urandom(16))
        with pytest.raises(Forbidden, match="the join token is not valid"):
            await join([target.address], asking(forged), forged)
        foreign = tokens.make_token(new_root().certificate, os.urandom(16))
        with pytest.raises(Forbidden, match="does not match fingerprint"):
            await join([target.address], asking(foreign), foreign)
        # As it is, without the check that an honest host makes.
        status, text = await posted(target, "/v1/join", codec.encode(asking(foreign, authority.request(new_key()))("")))
        assert (status, "not valid" in text) == (403, True)
        for text in ("", "SWMTKN", own.join_tokens.worker + "0"):
            with pytest.raises(InvalidArgument, match="invalid join token"):
                await join([target.address], asking(text), text)
        assert set(target.manager.state.nodes) == before

    run(attack)


def test_a_rotated_token_is_worthless() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        own = target.manager.cluster
        await target.manager.update_cluster(own.meta.version, own.spec, True, False)
        with pytest.raises(Forbidden, match="may have been rotated"):
            await join([target.address], asking(own.join_tokens.worker), own.join_tokens.worker)

    run(attack)


def test_certificates_that_are_not_good() -> None:
    """Expired, of another root, of another cluster under the same root, and of a node that is not there."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        long_ago = time.time_ns() - 3 * HOUR
        agent = target.members[1].node
        for credentials, why in (
            # The listener ends the connection in the middle of TLS: what one then sees of that depends on who is faster.
            (made(target, agent, begin=long_ago), "disconnected|closed|reset|expired"),
            (made(target, agent, root=new_root()), "disconnected|closed|reset|unknown ca"),
            (made(target, agent, cluster="c2"), "refuses this node"),
            (made(target, "nobody"), "not part of the swarm"),
        ):
            reason = await refused_session(target, credentials, agent if why != "not part of the swarm" else "nobody")
            assert any(part in reason.lower() for part in why.split("|")), reason

    run(attack)


def test_a_node_speaks_for_itself_only() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        own, other = target.members[1], target.founder
        reason = await refused_session(target, own.wallet.credentials, other.node)
        assert "whose certificate it has" in reason

    run(attack)


def test_an_agent_believes_no_manager_that_is_none() -> None:
    """Its certificate has expired, is a worker's, or of another root."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        for credentials in (
            made(target, "m", "manager", begin=time.time_ns() - 3 * HOUR),
            made(target, "m", "worker"),
            made(target, "m", "manager", root=new_root()),
        ):
            impostor = SessionServer(target.manager, target.manager.cluster.id, wallet(credentials))
            address = f"127.0.0.1:{free_port()}"
            await impostor.start(address)
            try:
                with pytest.raises(Unavailable, match="verif"):
                    await Connector(target.members[1].wallet, lambda address=address: [address])()
                with pytest.raises(Unavailable, match="verif"):
                    token = target.manager.cluster.join_tokens.worker
                    await join([address], asking(token), token)
            finally:
                await impostor.close()

    run(attack)


def test_a_removed_node_is_refused_at_once() -> None:
    """Its certificate is good for months. It is of no use: not for sessions, not for what is the managers', not to renew it."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        gone = await target.join("manager")
        await target.until(lambda: gone.uplink.connected)
        node = target.manager.state.nodes[gone.node]
        wish = MemberRequest(peer_url="https://127.0.0.66:2380", manager_address="127.0.0.66:2377")
        client = MemberClient(gone.wallet, lambda: [target.address])
        worker = msgspec.structs.replace(node.spec, role="worker")
        await gone.stop()
        await target.manager.update_node(node.id, node.meta.version, worker)
        await target.manager.remove_node(gone.node, force=True)
        assert gone.role == "manager"
        assert "not part of the swarm" in await refused_session(target, gone.wallet.credentials, gone.node)
        relayed = ManagerRelay(gone.wallet)(target.address, logs_of(target.members[1]))
        for ask in (client.enlist(wish), client.admit_vote(), relayed):
            with pytest.raises(Forbidden, match="is not part of the swarm"):
                await ask
        with pytest.raises(Forbidden):
            await LogConnector(gone.wallet)(target.address, "s")
        assert target.members[1].asked == []

    run(attack)


def test_a_session_of_a_removed_node_ends() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        gone = await target.join()
        await target.until(lambda: gone.uplink.connected)
        await target.manager.remove_node(gone.node, force=True)
        await target.until(lambda: gone.uplink.refused or "removed" in gone.uplink.error)

    run(attack)


def test_a_worker_on_what_is_the_managers() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        worker = target.members[1].wallet
        client = MemberClient(worker, lambda: [target.address])
        wish = MemberRequest(peer_url="https://127.0.0.66:2380", manager_address="127.0.0.66:2377")
        relayed = ManagerRelay(worker)(target.address, logs_of(target.members[1]))
        for ask in (client.enlist(wish), client.admit_vote(), relayed):
            with pytest.raises(Forbidden, match="is not a manager"):
                await ask
        assert target.members[1].asked == []
        for path in ("/v1/members", "/v1/members/vote", "/v1/logs"):
            status, text = await posted(target, path, codec.encode(wish))
            assert (status, "no client certificate" in text) == (403, True)

    run(attack)


# --- logs


def logs_of(member: Member) -> LogRequest:
    return LogRequest(node=member.node, publish=PublishLogs(subscription="s", manager="127.0.0.66:2377", wanted=LogsWanted()))


def line(text: str) -> LogLine:
    return LogLine(1, time.time_ns(), text.encode())


async def subscribed(target: Swarm) -> tuple[list[TaskLog], "asyncio.Task[None]", list[Member]]:
    """Somebody follows the logs of a service that has a task on each of two nodes."""
    spec = ServiceSpec(name="web", replicas=len(target.members), task=TaskSpec(container=ContainerSpec(image="demo")))
    id = await target.manager.create_service(spec)
    await target.until(lambda: all(task.node for task in target.manager.state.tasks_of(id).values()))
    read: list[TaskLog] = []

    async def follow() -> None:
        async for lines in target.manager.logs(LogsWanted(service=id, follow=True)):
            read.extend(lines)

    following = asyncio.create_task(follow())
    await target.until(lambda: all(member.asked for member in target.members))
    return read, following, target.members


def task_on(target: Swarm, member: Member) -> TaskId:
    return next(task.id for task in target.manager.state.tasks.values() if task.node == member.node)


def test_a_node_publishes_for_itself_only_and_when_it_is_asked() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        read, following, (one, other) = await subscribed(target)
        subscription = one.asked[0].subscription
        stranger = await target.join()
        for wallet_, name in ((stranger.wallet, subscription), (one.wallet, "guessed"), (one.wallet, subscription[:-1] + "?")):
            with pytest.raises(Forbidden):
                await LogConnector(wallet_)(target.address, name)
        status, text = await got(target, f"/v1/logs/{subscription}")
        assert (status, "no client certificate" in text) == (403, True)
        sink = await LogConnector(one.wallet)(target.address, subscription)
        with pytest.raises(Forbidden):
            await LogConnector(one.wallet)(target.address, subscription)
        own, foreign = task_on(target, one), task_on(target, other)
        await sink.send(LogLines(((foreign, line("false\n")), (TaskId("nothing"), line("false\n")), (own, line("true\n")))))
        await target.until(lambda: read)
        assert [(log.node, log.task, log.line.data) for log in read] == [(one.node, own, b"true\n")]
        following.cancel()
        await asyncio.wait((following,))
        async with asyncio.timeout(20):
            await sink.closed()
        await sink.close()
        with pytest.raises(Forbidden):
            await LogConnector(other.wallet)(target.address, subscription)

    run(attack)


@each_loop
def test_lines_that_are_too_long_or_make_no_sense(loop: str) -> None:
    """Such a connection ends, and the node is asked again; the others go on."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        read, following, (one, other) = await subscribed(target)
        context, subscription = tls.node_context(one.wallet.credentials), one.asked[0].subscription
        good = await LogConnector(other.wallet)(target.address, subscription)
        own = task_on(target, one)
        long = codec.encode(LogLines(((own, line("x" * MAX_LOG_LINES)),)))
        for turn, frame in enumerate(
            (b"nonsense", b"", long, b"x" * (MAX_LOG_LINES + 1), "text", codec.encode(Heartbeat())), 1
        ):
            await target.until(lambda turn=turn: len(one.asked) >= turn)
            async with aiohttp.ClientSession() as http:
                url = f"https://{target.address}/v1/logs/{subscription}"
                async with http.ws_connect(url, ssl=context, server_hostname=tls.MANAGER_NAME) as socket:
                    with suppress(ConnectionError):
                        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
                    async with asyncio.timeout(20):
                        while not socket.closed:
                            await socket.receive()
        await good.send(LogLines(((task_on(target, other), line("true\n")),)))
        await target.until(lambda: read)
        assert [log.line.data for log in read] == [b"true\n"]
        following.cancel()
        await asyncio.wait((following,))
        await good.close()

    run(attack, loop=loop)


def test_an_agent_that_does_not_know_how_is_not_asked() -> None:
    """It would end the session over a message that it does not know."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        old = target.members[1]
        old.uplink._publish = None
        await again(old)
        await target.until(lambda: old.uplink.connected)
        with pytest.raises(InvalidArgument, match=f"node {old.node} cannot publish logs: its daemon is too old"):
            await ManagerRelay(target.founder.wallet)(target.address, logs_of(old))
        with pytest.raises(FailedPrecondition, match="has no session with this manager"):
            nobody = LogRequest(node=NodeId("nobody"), publish=logs_of(old).publish)
            await ManagerRelay(target.founder.wallet)(target.address, nobody)
        await ManagerRelay(target.founder.wallet)(target.address, logs_of(target.founder))
        await target.until(lambda: target.founder.asked == [logs_of(old).publish])
        assert old.uplink.connected

    run(attack)


def test_errors_of_a_node_are_said_but_not_at_any_length() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        read, following, (one, _) = await subscribed(target)
        following.cancel()
        await asyncio.wait((following,))
        own = task_on(target, one)
        errors: list[str] = []

        async def once() -> None:
            try:
                async for lines in target.manager.logs(LogsWanted(task=own)):
                    read.extend(lines)
            except Unavailable as error:
                errors.append(str(error))

        reading = asyncio.create_task(once())
        await target.until(lambda: one.asked[-1].wanted.task == own)
        sink = await LogConnector(one.wallet)(target.address, one.asked[-1].subscription)
        await sink.send(LogLines(((own, line("true\n")),)))
        await sink.send(LogsEnd(("cannot read: broken",) + ("!" * 10,) * 10_000))
        await target.until(reading.done)
        assert [log.line.data for log in read] == [b"true\n"]
        assert f"node {one.node}: cannot read: broken; !!" in errors[0]
        assert len(errors[0]) < 2000
        await sink.close()

    run(attack)


async def got(target: Swarm, path: str) -> tuple[int, str]:
    """By somebody without a certificate."""
    context = tls.client_context(target.manager.cluster.root_ca.certificate)
    async with aiohttp.ClientSession() as http:
        async with http.get(f"https://{target.address}{path}", ssl=context, server_hostname=tls.MANAGER_NAME) as response:
            return response.status, await response.text()


# --- joining


def new_key():  # type: ignore[no-untyped-def]
    return authority.make_key(os.urandom)


def test_a_join_that_is_played_again() -> None:
    """The request is as secret as the token in it. Who has seen one and plays it again gets a certificate for a key that he does not
    have, of a node that is there already; no second node appears. It is also what a host does that got no answer."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        token = target.manager.cluster.join_tokens.worker
        seen: list[AdmissionRequest] = []

        def ask(csr: str) -> AdmissionRequest:
            seen.append(asking(token)(csr))
            return seen[-1]

        admitted, credentials = await join([target.address], ask, token)
        nodes = set(target.manager.state.nodes)
        (captured,) = seen
        own = new_key()
        replayed, _ = await join([target.address], lambda _: captured, token)
        assert replayed.node == admitted.node
        assert set(target.manager.state.nodes) == nodes
        with pytest.raises(ssl.SSLError):
            tls.node_context(Credentials(replayed.certificate, authority.private_pem(own), credentials.root))
        raised = msgspec.structs.replace(captured, token=target.manager.cluster.join_tokens.manager)
        assert (await join([target.address], lambda _: raised, token))[0].role == "worker", "the role is the node's"

    run(attack)


def test_a_man_in_the_middle_never_sees_the_secret() -> None:
    """He shows a root of his own. The digest in the token is that of another one: nothing but the question for the root is sent."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        heard: list[bytes] = []

        class Listening:
            def knows(self, address: str) -> bool:
                return False

            async def admit(self, request: AdmissionRequest, source: str) -> Admitted:
                heard.append(codec.encode(request))
                raise Forbidden("thank you")

        own = new_root()
        key = new_key()
        certificate = authority.issue(
            own, authority.request(key), NodeId("m"), "manager", target.manager.cluster.id, time.time_ns(), HOUR, 5
        )
        papers = Credentials(certificate, authority.private_pem(key), own.certificate)
        token = target.manager.cluster.join_tokens.worker
        # He may also pass on the true root; then it is his own certificate that does not follow from it.
        for shown in (papers, Credentials(papers.certificate, papers.key, target.manager.cluster.root_ca.certificate)):
            middle = SessionServer(Listening(), target.manager.cluster.id, wallet(shown))  # type: ignore[arg-type]
            address = f"127.0.0.1:{free_port()}"
            await middle.start(address)
            try:
                with pytest.raises((Forbidden, Unavailable), match="fingerprint|verif"):
                    await join([address], asking(token), token)
            finally:
                await middle.close()
        assert heard == []

    run(attack)


def test_a_root_that_is_too_long() -> None:
    """Whoever answers the first question has proved nothing yet, and is not listened to for long."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (64 << 20))
            with suppress(ConnectionError):
                await writer.drain()
            writer.close()

        context = tls.server_context(made(target, "m", "manager"))
        babbler = await asyncio.start_server(babble, "127.0.0.1", 0, ssl=context)
        port = babbler.sockets[0].getsockname()[1]
        token = target.manager.cluster.join_tokens.worker
        with pytest.raises(Unavailable, match="the answer is longer than"):
            await join([f"127.0.0.1:{port}"], asking(token), token)
        babbler.close()
        await babbler.wait_closed()

    run(attack)


# --- nonsense


async def posted(target: Swarm, path: str, body: bytes | AsyncIterator[bytes]) -> tuple[int, str]:
    """By somebody without a certificate."""
    context = tls.client_context(target.manager.cluster.root_ca.certificate)
    async with aiohttp.ClientSession() as http:
        url = f"https://{target.address}{path}"
        async with http.post(url, data=body, ssl=context, server_hostname=tls.MANAGER_NAME) as response:
            return response.status, await response.text()


@asynccontextmanager
async def raw(target: Swarm) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection with TLS and nothing said yet."""
    host, _, port = target.address.rpartition(":")
    context = tls.client_context(target.manager.cluster.root_ca.certificate)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=tls.MANAGER_NAME)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@each_loop
def test_bodies_that_are_too_long_or_make_no_sense(loop: str) -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        for body in (b"", b"nonsense", b"\xc1" * 1000, codec.encode({"token": 5}), codec.encode([[[[]]]] * 1000)):
            status, text = await posted(target, "/v1/join", body)
            assert (status, "malformed request" in text) == (400, True)
        good = codec.encode(asking(target.manager.cluster.join_tokens.worker, "no request at all")(""))
        status, text = await posted(target, "/v1/join", good)
        assert (status, "malformed request" in text) == (400, True)
        status, _ = await posted(target, "/v1/join", b"x" * 100_000)
        assert status == 413
        try:
            status, _ = await posted(target, "/v1/join", endless())
            assert status == 413
        except aiohttp.ClientError:
            pass
        assert (await posted(target, "/v1/nothing", b""))[0] == 404

    run(attack, loop=loop)


@each_loop
def test_what_is_not_even_http(loop: str) -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        for nonsense in (b"\0" * 4096, b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
                         b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000):  # fmt: skip
            async with raw(target) as (reader, writer):
                writer.write(nonsense)
                async with asyncio.timeout(20):
                    try:
                        answer = await reader.read(12)
                    except ConnectionError:
                        answer = b""
                assert answer in (b"", b"HTTP/1.1 400", b"HTTP/1.0 400")
        host, _, port = target.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/root HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                assert b"HTTP" not in await reader.read()
        writer.close()

    run(attack, loop=loop)


@each_loop
def test_frames_that_are_too_long_or_make_no_sense(loop: str) -> None:
    """By somebody with a certificate: such a session ends, and no other."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        insider = await target.join()
        await insider.stop()
        context = tls.node_context(insider.wallet.credentials)
        hello = codec.encode(Hello(node=insider.node, description=NodeDescription(), data_path_address="127.0.0.66"))
        long = codec.encode(StatusUpdate(1, (("t" * MAX_FROM_AGENT, msgspec.convert({"state": 1}, dict)),)))  # type: ignore[arg-type]
        backwards = codec.encode(Trust("a root of mine"))
        for frames in (
            [b"nonsense"], [b""], [hello, b"\xc1"], [hello, b"x" * (MAX_FROM_AGENT + 1)], [hello, long], [hello, hello],
            [codec.encode(Heartbeat())], [hello, backwards], [hello, "text"],
            [codec.encode(Hello(node=insider.node, description=NodeDescription(), data_path_address="nowhere"))],
        ):  # fmt: skip
            async with aiohttp.ClientSession() as http:
                url = f"https://{target.address}/v1/session"
                async with http.ws_connect(url, ssl=context, server_hostname=tls.MANAGER_NAME) as session:
                    for frame in frames:
                        try:
                            await (session.send_str(frame) if isinstance(frame, str) else session.send_bytes(frame))
                        except ConnectionError:
                            break
                    async with asyncio.timeout(20):
                        while not session.closed:
                            await session.receive()

    run(attack, loop=loop)


# --- those who say nothing, and those who do not listen

FEW = Limits(DoorLimits(CrowdLimits(strangers=64, per_source=64), silence=60, proof=60), send=1)


def memory() -> int:
    """Of this process, bytes that are in use now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def shake_hands(client: socket.socket, context: ssl.SSLContext) -> None:
    """As a client of TLS, which has no certificate and says nothing more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tunnel = context.wrap_bio(incoming, outgoing, server_hostname=tls.MANAGER_NAME)
    while True:
        try:
            tunnel.do_handshake()
            return client.sendall(outgoing.read())
        except ssl.SSLWantReadError:
            client.sendall(outgoing.read())
            incoming.write(client.recv(1 << 16))


async def insisting(ask: Callable[[], Awaitable[T]]) -> T:
    """Who comes from an address of which there are too many is cut off, and comes again."""
    while True:
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(0.1)


@each_loop
@pytest.mark.parametrize("secured", [False, True], ids=["tcp", "tls"])
def test_a_thousand_half_open_connections(loop: str, secured: bool) -> None:
    """TCP without TLS, and TLS without a request. Agents join all the same, before any of these is timed out, and the listener keeps
    no more than it wants to."""
    count = 1000

    async def attack(target: Swarm, server: SessionServer) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        before, used = descriptors(), memory()
        host, _, port = target.address.rpartition(":")
        opened: list[socket.socket] = []
        context = tls.client_context(target.manager.cluster.root_ca.certificate)

        def open_one() -> None:
            client = socket.socket()
            opened.append(client)
            client.settimeout(2)
            with suppress(OSError):
                client.connect((host, int(port)))
                if secured:
                    shake_hands(client, context)

        crowd, highest = ThreadPoolExecutor(16), 0
        for _ in range(count):
            crowd.submit(open_one)

        async def watch() -> None:
            nonlocal highest
            while True:
                highest = max(highest, server.unproven)
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        token = target.manager.cluster.join_tokens.worker
        try:
            good = await target.join()
            await target.until(lambda: good.uplink.connected)
            admitted = await insisting(lambda: join([target.address], asking(token), token))
            assert admitted[0].node in target.manager.state.nodes
            assert highest <= FEW.door.crowd.strangers + 2, "and who came with a certificate"
            assert descriptors() - before <= 2 * count + FEW.door.crowd.strangers + 20
            assert memory() - used < 400 << 20
        finally:
            watching.cancel()
            await asyncio.to_thread(crowd.shutdown, cancel_futures=True)
            for client in opened:
                client.close()

    run(attack, FEW, loop)


@each_loop
def test_a_connection_that_proves_nothing_is_cut(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before TLS, after it, after half a request, and as a session that says nothing though it has a certificate. By the
    listener's limits alone, long before what a manager has for a handshake, a request or a hello."""
    for patience in ((listener, "HANDSHAKE_TIMEOUT"), (session_server, "REQUEST_TIMEOUT"), (dispatch, "HELLO_TIMEOUT")):
        monkeypatch.setattr(*patience, 3600.0)

    async def attack(target: Swarm, server: SessionServer) -> None:
        insider = await target.join()
        await insider.stop()
        host, _, port = target.address.rpartition(":")
        plain, writer = await asyncio.open_connection(host, int(port))
        silent = await Connector(insider.wallet, lambda: [target.address])()
        async with raw(target) as (tunnel, _), raw(target) as (half, asks):
            asks.write(b"POST /v1/join HTTP/1.1\r\nhost: m\r\ncontent-length: 500\r\n\r\nxxx")
            async with asyncio.timeout(60):
                for reader in (plain, tunnel, half):
                    with suppress(ConnectionError):
                        assert await reader.read() == b""
                with pytest.raises(SessionClosed):
                    await silent.receive()
        await silent.close("")
        writer.close()
        await target.until(lambda: server.unproven == 0)

    run(attack, Limits(DoorLimits(silence=1, proof=1)), loop)


@each_loop
def test_an_agent_that_does_not_read_is_cut_off(loop: str) -> None:
    """However long its assignments: one message waits for it, not all."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        sent, reasons = 0, []

        class Talking:
            is_serving = True

            def knows(self, address: str) -> bool:
                return False

            async def serve(self, session: ManagerSession) -> None:
                nonlocal sent
                await session.receive()
                try:
                    while True:
                        await session.send(Trust("x" * (1 << 20)))
                        sent += 1
                except SessionClosed as error:
                    reasons.append(str(error))
                    raise

        talker = SessionServer(Talking(), target.manager.cluster.id, target.founder.wallet, Limits(send=1))  # type: ignore[arg-type]
        address = f"127.0.0.1:{free_port()}"
        await talker.start(address)
        try:
            used = memory()
            deaf = await Connector(target.members[1].wallet, lambda: [address])()
            await deaf.send(Heartbeat())
            await target.until(lambda: reasons, 30)
            assert "has not read" in reasons[0]
            assert sent < 30, "what the kernel holds for a connection"
            assert memory() - used < 100 << 20
            with pytest.raises(SessionClosed):
                for _ in range(100):
                    await deaf.receive()
            await deaf.close("")
        finally:
            await talker.close()

    run(attack, loop=loop)


def test_one_node_has_one_session() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        insider = await target.join()
        await insider.stop()
        hello = Hello(node=insider.node, description=NodeDescription(), data_path_address="127.0.0.66")
        sessions = []
        for _ in range(20):
            sessions.append(await Connector(insider.wallet, lambda: [target.address])())
            await sessions[-1].send(hello)
            await sessions[-1].receive()
        for session in sessions[:-1]:
            async with asyncio.timeout(20):
                with pytest.raises(SessionClosed):
                    while not isinstance(await session.receive(), Goodbye):
                        pass
                    raise SessionClosed("said goodbye")
        for session in sessions:
            await session.close("")

    run(attack)
