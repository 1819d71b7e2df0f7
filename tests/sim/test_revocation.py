"""Certificates of managers that are managers no more, in virtual time: all that were issued are
known, and none of them opens a door."""

import asyncio
import ssl

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.certified import END, HOUR, Member, Swarm, swarm
from weft.control.revocation import MOST
from weft.errors import FailedPrecondition, Forbidden
from weft.manager.authority import PkiAuthority
from weft.manager.manager import Manager
from weft.manager.ports import ManagerPorts
from weft.model.certificate import LAG
from weft.model.container import LogLine
from weft.model.logs import LogsWanted, TaskLog
from weft.model.meta import SECOND
from weft.model.node import Node, NodeDescription, NodeState, Role
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.model.state import Put
from weft.pki import authority
from weft.pki.certificate import holder
from weft.session import tls
from weft.session.base import AgentSession, Identity, MemberRequest, PublishRequest
from weft.session.fake_streams import MemoryStream
from weft.session.identity import Credentials, CredentialSource
from weft.session.messages import (
    CertificateRequest,
    Goodbye,
    Hello,
    LogLines,
    LogsRequest,
    Publish,
    Welcome,
)
from weft.store.sole import SoleLeader


def ready(cluster: Swarm) -> bool:
    return all(
        node.status.state is NodeState.READY for node in cluster.manager.swarm.state.nodes.values()
    )


def node(cluster: Swarm, member: Member) -> Node:
    return cluster.manager.swarm.state.nodes[member.node]


async def become(cluster: Swarm, member: Member, role: Role) -> None:
    before = node(cluster, member)
    spec = msgspec.structs.replace(before.spec, role=role)
    await cluster.manager.swarm.update_node(before.id, before.meta.version, spec)


async def serve(cluster: Swarm, member: Member, address: str) -> None:
    """As far as the others see."""
    after = msgspec.structs.replace(node(cluster, member), manager_address=address)
    await cluster.store.commit([Put(after)])


def serial(credentials: Credentials) -> str:
    return holder(credentials.certificate).serial


def revoked(cluster: Swarm) -> set[str]:
    return {certificate.serial for certificate in cluster.manager.swarm.cluster.revoked}


def given(cluster: Swarm, member: Member) -> set[str]:
    return {certificate.serial for certificate in node(cluster, member).manager_certificates}


def identity(cluster: Swarm, credentials: Credentials) -> Identity:
    shown = ssl.PEM_cert_to_DER_cert(credentials.certificate.partition("-----END")[0] + END)
    return tls.identity(shown, cluster.manager.swarm.cluster.id)


async def session(
    cluster: Swarm, member: Member, credentials: Credentials, manager: Manager | None = None
) -> AgentSession:
    """One that somebody opens who has copied these."""
    thief = Member(cluster, credentials, member.address)
    thief.credential_source = CredentialSource(credentials, lambda _: None)
    opened = await cluster.connect(thief, manager)
    description, address = NodeDescription(hostname=str(member.address)), str(member.address)
    await opened.send(Hello(node=member.node, description=description, data_path_address=address))
    return opened


async def refusal(opened: AgentSession) -> str:
    """What a session is refused with; empty if it is not."""
    answer = await opened.receive()
    await opened.close("seen enough")
    return answer.reason if isinstance(answer, Goodbye) else ""


async def goodbye(opened: AgentSession) -> str:
    """What a session ends with."""
    async with asyncio.timeout(60):
        while not isinstance(message := await opened.receive(), Goodbye):
            pass
    return message.reason


async def refusals(cluster: Swarm, credentials: Credentials) -> list[str]:
    """What is said to what only managers may ask for; empty where it is not refused."""
    peer, said = identity(cluster, credentials), []
    publish = Publish(
        subscription="s", manager="192.0.2.1:2377", request=LogsRequest(wanted=LogsWanted())
    )
    for asked in (
        cluster.manager.enlist(
            peer, MemberRequest(peer_url="https://x:2380", manager_address="x:2377")
        ),
        cluster.manager.admit_vote(peer),
        cluster.manager.pass_on(peer, PublishRequest(node=peer.node, publish=publish)),
    ):
        try:
            await asked
        except Forbidden as refused:
            said.append(str(refused))
        except FailedPrecondition:  # for who is a manager the rest of this is not there
            said.append("")
        else:
            said.append("")
    return said


def test_all_certificates_of_a_manager_are_known_until_they_have_expired() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1, heartbeat=60 * SECOND) as cluster:
            manager, seen = await cluster.join("manager"), set[str]()
            await cluster.until(lambda: ready(cluster))
            for _ in range(200):
                await asyncio.sleep(600)
                seen.add(serial(manager.credential_source.credentials))
                assert serial(manager.credential_source.credentials) in given(cluster, manager)
                assert len(given(cluster, manager)) < (HOUR + LAG) / HOUR * 2 + 2
            assert len(seen) > 30
            assert given(cluster, cluster.members[1]) == set(), (
                "a worker's opens none of these doors"
            )
            await become(cluster, manager, "worker")
            assert revoked(cluster) > {serial(manager.credential_source.credentials)}
            assert given(cluster, manager) == set()
            await cluster.until(lambda: manager.role == "worker")
            await asyncio.sleep((LAG + 3 * HOUR) / SECOND)
            assert revoked(cluster) == set(), "forgotten when they have expired"

    virtual_time.run(main())


def test_one_that_was_demoted_has_nothing_of_its_former_certificates() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            stolen = manager.credential_source.credentials
            assert "" in await refusals(cluster, stolen), "as yet they are a manager's"
            await become(cluster, manager, "worker")
            assert all("not a manager" in said for said in await refusals(cluster, stolen))
            await cluster.until(lambda: manager.role == "worker")
            await cluster.until(lambda: newest_is_shown(cluster, manager))
            assert "was revoked" in await refusal(await session(cluster, manager, stolen))
            assert (
                await refusal(
                    await session(cluster, manager, manager.credential_source.credentials)
                )
                == ""
            )

            await become(cluster, manager, "manager")
            await cluster.until(lambda: manager.role == "manager")
            await cluster.until(lambda: newest_is_shown(cluster, manager))
            assert all("was revoked" in said for said in await refusals(cluster, stolen)), (
                "a manager again, by another"
            )
            assert "" in await refusals(cluster, manager.credential_source.credentials)
            assert "was revoked" in await refusal(await session(cluster, manager, stolen))

    virtual_time.run(main())


def test_a_session_that_stands_ends_when_the_node_has_another_certificate() -> None:
    """At whatever manager: the node's own session may be with another one, where it shows the new
    one."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            stolen = manager.credential_source.credentials
            async with second_manager(cluster, manager) as other:
                thief = await session(cluster, manager, stolen, other)
                assert isinstance(await thief.receive(), Welcome)
                await become(cluster, manager, "worker")
                assert "was revoked" in await goodbye(thief)
                await cluster.until(lambda: manager.role == "worker")
                await cluster.until(lambda: ready(cluster))

    virtual_time.run(main())


def second_manager(cluster: Swarm, member: Member) -> Manager:
    """On the same store; it does not lead."""
    leader = SoleLeader(cluster.founder.node)
    ports = ManagerPorts(clock=cluster.clock, entropy=cluster.entropy, authority=PkiAuthority())
    return Manager(member.node, cluster.store, leader, ports)


def test_a_connection_with_logs_that_stands_ends_when_the_node_has_another_certificate() -> None:
    """Silent or not: the node is asked again then, and publishes with the new one."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            demo = TaskSpec(container=ContainerSpec(image="demo"))
            id = await cluster.manager.swarm.create_service(
                ServiceSpec(name="web", replicas=2, task=demo)
            )
            read: list[TaskLog] = []

            async def follow() -> None:
                async for lines in cluster.manager.swarm.logs(LogsWanted(service=id, follow=True)):
                    read.extend(lines)

            following = asyncio.create_task(follow())
            await cluster.until(lambda: manager.asked)
            source = publisher(cluster, manager.credential_source.credentials)
            taking = asyncio.create_task(
                cluster.manager.take_stream(source, manager.asked[0].subscription)
            )
            tasks = cluster.manager.swarm.state.tasks.values()
            own = next(task.id for task in tasks if task.node == manager.node)
            await source.send(LogLines(((own, LogLine(1, 1, b"true")),)))
            await cluster.until(lambda: read)

            await become(cluster, manager, "worker")
            shown = manager.credential_source.credentials
            await cluster.until(
                lambda: (
                    newest_is_shown(cluster, manager)
                    and manager.credential_source.credentials != shown
                )
            )
            begin = asyncio.get_running_loop().time()
            async with asyncio.timeout(60):
                await taking
            assert asyncio.get_running_loop().time() - begin < 0.1, "not only when it is looked at"
            await source.send(LogLines(((own, LogLine(1, 2, b"false")),)))
            await cluster.until(lambda: len(manager.asked) == 2)
            following.cancel()
            await asyncio.wait((following,))
            assert [log.line.data for log in read] == [b"true"]

    virtual_time.run(main())


def newest_is_shown(cluster: Swarm, member: Member) -> bool:
    return node(cluster, member).certificate.serial == serial(member.credential_source.credentials)


def publisher(cluster: Swarm, credentials: Credentials) -> MemoryStream:
    async def passable() -> None: ...

    return MemoryStream(identity(cluster, credentials), passable)


def test_who_publishes_logs_shows_the_newest_certificate_as_well() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            stolen = manager.credential_source.credentials
            await become(cluster, manager, "worker")
            await cluster.until(lambda: manager.role == "worker")
            await cluster.until(lambda: newest_is_shown(cluster, manager))
            for credentials, why in (
                (stolen, "was revoked"),
                (manager.credential_source.credentials, "no stream of node"),
            ):
                with pytest.raises(Forbidden, match=why):
                    await cluster.manager.take_stream(publisher(cluster, credentials), "s")

    virtual_time.run(main())


def test_one_that_is_a_manager_again_at_once_is_given_another_certificate() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            await serve(cluster, cluster.founder, "127.0.0.1:2377")
            await serve(cluster, manager, f"{manager.address}:2377")
            before = manager.credential_source.credentials
            await manager.stop()
            await become(cluster, manager, "worker")
            await become(cluster, manager, "manager")
            assert serial(before) in revoked(cluster)
            manager.start()
            await cluster.until(lambda: manager.credential_source.credentials is not before)
            assert manager.role == "manager"
            assert given(cluster, manager) == {serial(manager.credential_source.credentials)}
            assert serial(manager.credential_source.credentials) not in revoked(cluster)

    virtual_time.run(main())


def test_one_that_is_on_its_way_out_is_given_no_other() -> None:
    """It remains a manager in effect until its part of the store was taken from it; so it could ask
    for one that nobody revokes."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            now = node(cluster, manager)
            spec = msgspec.structs.replace(now.spec, role="worker")
            leaving = msgspec.structs.replace(now, spec=spec, store_peer="https://x:2380")
            assert leaving.role == "manager"
            csr = authority.request(authority.make_key(cluster.entropy))
            with pytest.raises(
                FailedPrecondition, match="it is to be a worker and is a manager still"
            ):
                cluster.manager._certificates.issue(cluster.manager.swarm.state, leaving, csr, "")

    virtual_time.run(main())


def test_the_removed_are_strangers() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1, expiry=24 * HOUR) as cluster:
            manager, worker = await cluster.join("manager"), cluster.members[1]
            await cluster.until(lambda: ready(cluster))
            for member in (manager, worker):
                stolen = [member.credential_source.credentials]
                await become(cluster, member, "worker")
                await cluster.until(lambda member=member: member.role == "worker")
                stolen.append(member.credential_source.credentials)
                await cluster.manager.swarm.remove_node(member.node, force=True)
                for credentials in stolen:
                    assert "not part of the swarm" in await refusal(
                        await session(cluster, member, credentials)
                    )
                    assert all(
                        "not part of the swarm" in said
                        for said in await refusals(cluster, credentials)
                    )
            assert len(revoked(cluster)) == 1

    virtual_time.run(main())


def test_one_that_nobody_knows_is_known_when_it_was_shown() -> None:
    """It was issued after the backup was made that the state was restored from."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            own = serial(manager.credential_source.credentials)
            await manager.stop()
            await cluster.store.commit(
                [Put(msgspec.structs.replace(node(cluster, manager), manager_certificates=()))]
            )
            manager.start()
            await cluster.until(lambda: given(cluster, manager) == {own})
            await manager.stop()
            await become(cluster, manager, "worker")
            emptied = msgspec.structs.replace(cluster.manager.swarm.cluster, revoked=())
            await cluster.store.commit([Put(emptied)])
            manager.start()
            await cluster.until(lambda: revoked(cluster) == {own})
            await cluster.until(lambda: manager.role == "worker")

    virtual_time.run(main())


def test_a_hostile_manager_cannot_fill_the_list() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0, expiry=24 * HOUR) as cluster:
            manager = await cluster.join("manager")
            await cluster.until(lambda: ready(cluster))
            certificates, key = cluster.manager._certificates, authority.make_key(cluster.entropy)
            asked = CertificateRequest(authority.request(key), str(manager.address))
            for _ in range(MOST - 1):
                await certificates.answer(cluster.store, manager.node, asked)
            with pytest.raises(FailedPrecondition, match=f"it has {MOST} that have not expired"):
                await certificates.answer(cluster.store, manager.node, asked)
            await become(cluster, manager, "worker")
            assert len(revoked(cluster)) == MOST

    virtual_time.run(main())
