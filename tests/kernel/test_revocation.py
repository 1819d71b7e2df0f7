"""Who was a manager and has kept its key: refused by the members of etcd beside the others, real
ones on loopback."""

import asyncio
import errno
import http.client
import os
import shutil
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from tests.support.members import Host, until
from weft.daemon.running_manager import SharedManager
from weft.daemon.store_part import Door
from weft.errors import OperationFailed, Unavailable
from weft.model.cluster import PEER_PORT
from weft.model.logs import LogsWanted
from weft.pki.certificate import holder
from weft.pki.revocation import revoked_serials
from weft.session import tls
from weft.session.base import PublishRequest
from weft.session.messages import LogsRequest, Publish
from weft.store.etcd.process import EtcdMember

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]
APPEND_RESPONSE = 4
"""MsgAppResp of raftpb.MessageType: one of a later term makes a leader step down."""
LATER = 1000


class Thief:
    """With a copy of a node's credentials, outside the swarm."""

    def __init__(self, victim: Host, copy: Path) -> None:
        shutil.copytree(
            victim.environment.data, copy, ignore=shutil.ignore_patterns("etcd", "agent")
        )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.load_verify_locations(copy / "root.crt")
        self._context.load_cert_chain(copy / "node.crt", copy / "node.key")
        self.cluster = ""
        self.held: dict[Host, http.client.HTTPSConnection] = {}

    def _connection(self, host: Host) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            str(host.address), PEER_PORT, timeout=5, context=self._context
        )

    async def _ask(self, connection: http.client.HTTPSConnection, *request: object) -> int:
        """The status; 0 where nobody answers."""

        def ask() -> int:
            try:
                connection.request(*request)  # type: ignore[arg-type]
                answer = connection.getresponse()
                answer.read()
                self.cluster = answer.headers.get("X-Etcd-Cluster-Id", self.cluster)
                return answer.status
            except (OSError, http.client.HTTPException):
                return 0

        return await asyncio.to_thread(ask)

    async def knock(self, host: Host) -> int:
        return await self._once(host, "GET", "/members")

    async def hold(self, host: Host) -> int:
        """A connection that stays."""
        connection = self.held[host] = self._connection(host)
        connection.connect()  # `request` would connect again
        connection.auto_open = 0
        return await self._ask(connection, "GET", "/members")

    async def knock_again(self, host: Host) -> int:
        return await self._ask(self.held[host], "GET", "/members")

    async def depose(self, host: Host, receiver: int, sender: int) -> int:
        """A message of the protocol in the name of another member."""
        body = b"".join(
            bytes([field << 3]) + varint(value)
            for field, value in ((1, APPEND_RESPONSE), (2, receiver), (3, sender), (4, LATER))
        )
        headers = {
            "X-Server-From": f"{sender:x}", "X-Server-Version": "3.4.23", "X-Min-Cluster-Version": "3.0.0",
            "X-Etcd-Cluster-ID": self.cluster, "Content-Type": "application/protobuf",
        }  # fmt: skip
        return await self._once(host, "POST", "/raft", body, headers)

    async def _once(self, host: Host, *request: object) -> int:
        with closing(self._connection(host)) as connection:
            return await self._ask(connection, *request)

    def close(self) -> None:
        for connection in self.held.values():
            connection.close()


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def part(host: Host) -> EtcdMember:
    return host.up._host.etcd()


async def status(host: Host) -> tuple[int, int]:
    """(id of its member of etcd, term)"""
    client = part(host).client()
    try:
        said = await client._call("maintenance/status", {}, dict)
        return int(said["header"]["member_id"]), int(said["raftTerm"])
    finally:
        await client.close()


def refused_by(host: Host) -> frozenset[str]:
    return revoked_serials(part(host).settings.revoked.read_bytes())


async def renew(host: Host) -> None:
    """Another certificate, long before its time."""
    before, renewal = host.up._credential_source.credentials, host.up.agent.uplink._renewal
    assert renewal is not None
    renewal.renew("a test")
    await until(lambda: host.up._credential_source.credentials is not before)
    await until(lambda: host.up.agent.uplink.connected)


async def demote(asked: Host, host: Host) -> None:
    async def attempt() -> None:
        node = asked.manager.swarm.state.nodes[host.up.member.node]
        spec = msgspec.structs.replace(node.spec, role="worker")
        await asked.manager.swarm.update_node(node.id, node.meta.version, spec)

    await until(attempt)


Steal = Callable[[Host], Thief]


def play(
    directory: Path, scene: Callable[[Host, Host, Host, Steal], Awaitable[None]], managers: int = 3
) -> None:
    """The first three of so many managers."""

    async def main() -> None:
        thieves: list[Thief] = []

        def steal(victim: Host) -> Thief:
            thieves.append(Thief(victim, directory / f"copy{len(thieves)}"))
            return thieves[-1]

        hosts = [Host(directory, number, None) for number in range(41, 41 + managers)]
        first = hosts[0]
        try:
            await first.init()
            for host in hosts[1:]:
                await host.join(first.listen, (await first.manager.swarm.join_tokens()).manager)
                await until(lambda host=host: host.manager)
            for host in hosts:
                await until(
                    lambda host=host: len(host.manager.swarm.leadership_status.present) == managers
                )
                await until(lambda host=host: host.up.agent.uplink.connected)
            await scene(hosts[0], hosts[1], hosts[2], steal)
        finally:
            for thief in thieves:
                thief.close()
            for host in reversed(hosts):
                if host.member is not None:
                    await host.leave()

    asyncio.run(main())


def test_the_key_of_a_manager_that_was_demoted_and_removed_opens_no_door(tmp_path: Path) -> None:
    async def scene(first: Host, second: Host, third: Host, steal: Steal) -> None:
        thieves = [steal(third)]
        await renew(third)
        thieves.append(steal(third))
        for thief in thieves:
            for host in (first, second):
                assert await thief.knock(host) == 200
                assert await thief.hold(host) == 200
        node, (second_id, _) = third.up.member.node, await status(second)
        first_id, term = await status(first)

        await demote(first, third)
        kv = part(first).client()
        await until(lambda: gone(kv, third))
        await kv.close()
        serials = refused_by(first)
        assert len(serials) == 2
        assert refused_by(second) == serials, "in both before the member was removed"
        await until(lambda: first.manager.swarm.state.nodes[node].role == "worker")
        for thief in thieves:
            for host in (first, second):
                assert await thief.knock(host) == 0
                assert await thief.knock_again(host) == 0, "a connection that stood was ended"
        await until(lambda: not third.up.is_manager and not third.up._host.has_part)
        await third.stop()
        await first.manager.swarm.remove_node(node, force=True)
        for thief in thieves:
            assert await thief.depose(first, first_id, second_id) == 0
            assert await thief.depose(second, second_id, first_id) == 0
            assert await thief.knock(first) == 0
        assert (await status(first))[1] == (await status(second))[1] < LATER
        assert term < LATER
        for host in (first, second):
            await renew(host)
        assert refused_by(first) == refused_by(second) == serials

    play(tmp_path, scene)


async def gone(kv: object, host: Host) -> bool:
    url = host.up._host.settings.peer_url
    members = await kv.members()  # type: ignore[attr-defined]
    return all(url not in member.peer_urls for member in members)


def test_a_manager_whose_daemon_was_down_meanwhile_refuses_it_when_it_is_back(
    tmp_path: Path,
) -> None:
    """Its member of etcd went on without it, and etcd does not know of such things by itself."""

    async def scene(first: Host, second: Host, third: Host, steal: Steal) -> None:
        thief = steal(third)
        await second.stop()
        await demote(first, third)
        await until(lambda: first.manager.swarm.state.nodes[third.up.member.node].role == "worker")
        assert await thief.knock(first) == 0
        assert await thief.hold(second) == 200, "or this test shows nothing"
        await second.resume()
        await until(lambda: thief_is_out(thief, second))
        await until(lambda: thief_is_cut(thief, second))

    play(tmp_path, scene, managers=4)  # or the one that is down would be needed for a majority


def test_no_node_says_anything_to_a_server_with_a_former_key(tmp_path: Path) -> None:
    async def scene(first: Host, second: Host, third: Host, steal: Steal) -> None:
        stolen, node = third.up._credential_source.credentials, third.up.member.node
        request = LogsRequest(wanted=LogsWanted())
        publish = Publish(subscription="s", manager=first.listen, request=request)
        worker = Host(tmp_path, 49, None)
        await worker.join(second.listen, (await first.manager.swarm.join_tokens()).worker)
        await until(lambda: worker.up.agent.uplink.connected)
        await demote(first, third)
        await until(lambda: not third.up.is_manager and third.up.manager is None)
        serial = holder(stolen.certificate).serial
        await until(lambda: worker.up._revocations.is_revoked(serial))
        address, _, port = third.listen.rpartition(":")
        took: list[asyncio.Server] = []

        async def take_its_place() -> bool:
            """The former manager closes its port last."""
            try:
                took.append(await asyncio.start_server(
                    lambda _, writer: writer.close(), address, int(port), ssl=tls.server_context(stolen)
                ))  # fmt: skip
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            return bool(took)

        await until(take_its_place)
        async with took[0]:
            for host in (first, second, worker):
                member, adapters = host.up.member, host.up.agent._adapters.managers
                host.up.record.member = msgspec.structs.replace(
                    member, managers=((node, third.listen),)
                )
                asked = [adapters.connect(), adapters.open_stream(third.listen, "s")]
                if host is not worker:
                    relay = host.manager.streams._relay
                    asked.append(relay(third.listen, PublishRequest(node=node, publish=publish)))
                for ask in asked:
                    with pytest.raises(Unavailable, match="was revoked"):
                        await ask
                host.up.record.member = member
        await worker.leave()

    play(tmp_path, scene)


async def thief_is_out(thief: Thief, host: Host) -> bool:
    return await thief.knock(host) == 0


async def thief_is_cut(thief: Thief, host: Host) -> bool:
    """Standing connections end a moment after new ones are refused."""
    return await thief.knock_again(host) == 0


def test_a_manager_that_leaves_takes_its_key_out_of_use(tmp_path: Path) -> None:
    """Without having been demoted; and the others go on with what they have."""

    async def scene(first: Host, second: Host, third: Host, steal: Steal) -> None:
        thief = steal(third)
        assert await thief.hold(first) == 200
        node = third.up.member.node
        await third.leave()
        for host in (first, second):
            await until(lambda host=host: thief_is_out(thief, host))
        await until(lambda: thief_is_cut(thief, first))
        assert first.manager.swarm.state.nodes[node].spec.role == "manager", (
            "that is for a user to change"
        )

    play(tmp_path, scene)


def test_one_that_is_a_manager_again_is_let_in_and_its_former_key_is_not(tmp_path: Path) -> None:
    async def scene(first: Host, second: Host, third: Host, steal: Steal) -> None:
        thief = steal(third)
        node = third.up.member.node
        await demote(first, third)
        await until(lambda: not third.up.is_manager and not third.up._host.has_part)

        async def promote() -> None:
            now = first.manager.swarm.state.nodes[node]
            spec = msgspec.structs.replace(now.spec, role="manager")
            await first.manager.swarm.update_node(node, now.meta.version, spec)

        await until(promote)
        await until(lambda: len(third.manager.swarm.leadership_status.present) == 3)
        serials = refused_by(first)
        assert serials
        assert refused_by(third) == serials, "a newcomer refuses from its first moment on"
        for host in (first, second, third):
            assert await thief.knock(host) == 0
        await until(lambda: third.manager.is_serving)

    play(tmp_path, scene)


def test_where_the_kernel_cannot_end_connections_etcd_is_started_again(tmp_path: Path) -> None:
    def cannot(address: IPv4Address, port: int) -> int:
        raise OperationFailed(
            f"cannot end connections to {address}:{port}: Operation not supported"
        )

    async def scene(first: Host, second: Host, third: Host, steal: Steal) -> None:
        thief, etcd = steal(third), part(first)
        assert await thief.hold(first) == 200
        own = first.up._parts.running
        assert own is not None
        assert isinstance(own, SharedManager)
        door = Door(first.up._host, own.etcd, cannot)
        before = etcd.settings.record.read_bytes()
        revoked = first.manager.swarm.state.nodes[third.up.member.node].manager_certificates
        await door.refuse(revoked, first.manager.swarm.state)
        await until(lambda: etcd.settings.record.read_bytes() != before)
        await own.etcd.ready()
        await until(lambda: thief_is_cut(thief, first))
        assert await thief.knock(first) == 0
        await door.close()

    play(tmp_path, scene)


def test_the_next_daemon_ends_connections_that_the_last_one_may_have_left(tmp_path: Path) -> None:
    """It may have been killed after it had written the list."""

    async def scene(first: Host, second: Host, third: Host, steal: Steal) -> None:
        ended = list[IPv4Address]()

        def end(address: IPv4Address, port: int) -> int:
            ended.append(address)
            return 0

        own = first.up._parts.running
        assert own is not None
        assert isinstance(own, SharedManager)
        state = first.manager.swarm.state
        revoked = state.nodes[third.up.member.node].manager_certificates
        door = Door(first.up._host, own.etcd, end)
        await door.refuse((), state)
        assert ended == [], "there is nothing to refuse"
        for _ in range(2):
            await door.refuse(revoked, state)
            assert ended == [first.address]
        for _ in range(2):
            following = Door(first.up._host, own.etcd, end)
            await following.refuse(revoked, state)
            await following.refuse(revoked, state)
        assert ended == [first.address] * 3

    play(tmp_path, scene)
