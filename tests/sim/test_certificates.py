"""Certificates over months, in virtual time: they are renewed in time, follow a node's role, and
change to a new root."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from tests.support import virtual_time
from tests.support.certified import HOUR, Member, Swarm, swarm
from tests.support.members import Host, until
from weft.daemon import running_manager
from weft.errors import InvalidArgument
from weft.manager.certificates import self_issued
from weft.model.meta import SECOND
from weft.model.node import NodeDescription, NodeState, Role
from weft.model.state import Put
from weft.pki import authority
from weft.pki.certificate import fingerprint, holder, issuer_id, load, signer_id, verify
from weft.session.credentials import EARLIEST, EXPIRED, LATEST
from weft.session.identity import Credentials, IdentityStore
from weft.session.messages import Goodbye, Hello, Renew


def life_passed(member: Member) -> float:
    """How much of its certificate's life is over, from 0 to 1."""
    certificate = load(member.credential_source.credentials.certificate)
    end = certificate.not_valid_after_utc.timestamp()
    return 1 - (end - virtual_time.clock() / SECOND) / 3600


def ready(swarm: Swarm) -> bool:
    return all(m.uplink.connected for m in swarm.members) and all(
        node.status.state is NodeState.READY for node in swarm.manager.state.nodes.values()
    )


async def rotate(swarm: Swarm) -> None:
    cluster = swarm.manager.cluster
    spec = msgspec.structs.replace(cluster.spec, force_rotate=cluster.spec.force_rotate + 1)
    await swarm.manager.update_cluster(cluster.meta.version, spec, False, False)


def settled(swarm: Swarm, root: str) -> bool:
    """Every node has a certificate of this root and trusts it, and the manager knows."""
    cluster = swarm.manager.cluster
    shown = {
        (node.certificate.issuer, node.certificate.trusted)
        for node in swarm.manager.state.nodes.values()
    }
    return (
        cluster.rotation is None
        and cluster.root_ca.certificate == root
        and shown == {(signer_id(root), fingerprint(root))}
    )


def test_certificates_are_renewed_for_as_long_as_there_are_sessions() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, heartbeat=60 * SECOND) as cluster:
            first = [m.credential_source.credentials for m in cluster.members]
            passed: list[float] = []
            before = {m.node: m.credential_source.credentials for m in cluster.members}
            end = virtual_time.clock() + 5 * HOUR
            highest = {m.node: 0.0 for m in cluster.members}
            while virtual_time.clock() < end:
                await asyncio.sleep(5)
                for member in cluster.members:
                    if member.credential_source.credentials is before[member.node]:
                        highest[member.node] = life_passed(member)
                    else:
                        passed.append(highest[member.node])
                        before[member.node] = member.credential_source.credentials
            assert len(passed) >= 3 * 5
            assert all(EARLIEST - 0.01 <= part <= LATEST + 0.01 for part in passed)
            assert len({round(part, 2) for part in passed}) > 5, (
                "not all at one moment of their life"
            )
            assert ready(cluster)
            for member, old in zip(cluster.members, first, strict=True):
                assert member.credential_source.credentials.key != old.key
                assert member.credential_source.credentials.root == old.root

    virtual_time.run(main())


def test_a_renewal_that_was_due_while_no_manager_was_in_reach() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            await cluster.until(lambda: ready(cluster))
            worker = cluster.members[1]
            old = worker.credential_source.credentials
            cluster.is_reachable = False
            await worker.stop()
            worker.start()
            await asyncio.sleep(0.9 * 3600)
            assert worker.credential_source.credentials is old
            cluster.is_reachable = True
            await cluster.until(lambda: worker.credential_source.credentials is not old, 10)

    virtual_time.run(main())


@pytest.mark.parametrize("rotates", [False, True])
def test_a_sole_manager_that_was_off_for_too_long_issues_its_own(rotates: bool) -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=0) as cluster:
            await cluster.until(lambda: ready(cluster))
            founder, old = cluster.founder, cluster.founder.credential_source.credentials

            async def issued() -> Credentials | None:
                return await self_issued(
                    cluster.store,
                    founder.node,
                    founder.address,
                    founder.credential_source.credentials,
                    virtual_time.clock(),
                    cluster.entropy,
                )

            assert await issued() is None
            await founder.stop()
            if rotates:
                await rotate(cluster)
            await asyncio.sleep(0.75 * 3600)
            assert await issued() is None
            await asyncio.sleep(0.06 * 3600)
            assert await issued() is not None
            await asyncio.sleep(5 * 3600)
            with pytest.raises(InvalidArgument, match="it is good from"):
                verify(old.certificate, old.root, virtual_time.clock())
            new = await issued()
            assert new is not None
            assert new.key != old.key
            assert new.root == old.root
            verify(new.certificate, old.root, virtual_time.clock())
            before, after = holder(old.certificate), holder(new.certificate)
            assert (after.node, after.role, after.cluster) == (
                before.node,
                before.role,
                before.cluster,
            )
            founder.credential_source.replace(new)
            assert await issued() is None
            founder.start()
            await cluster.until(lambda: ready(cluster))
            await cluster.until(
                lambda: settled(cluster, cluster.manager.cluster.root_ca.certificate)
            )

    virtual_time.run(main())


def test_a_daemon_whose_certificate_expired_while_its_host_was_off_goes_on(tmp_path: Path) -> None:
    """The whole of it, on loopback: the sole manager's store, listener and agent."""

    async def main() -> None:
        host = Host(tmp_path, 1, None)
        await host.init()
        member, root = host.up.member, host.manager.cluster.root_ca
        await host.stop()
        key, begun = (
            authority.make_key(random.Random(1).randbytes),
            time.time_ns() - 100 * 24 * HOUR,
        )
        expired = authority.issue(
            root,
            authority.request(key),
            member.node,
            "manager",
            member.cluster,
            begun,
            90 * 24 * HOUR,
            7,
            (host.address,),
        )
        disk = IdentityStore(host.environment.data)
        disk.save_credentials(Credentials(expired, authority.private_pem(key), root.certificate))
        await host.resume()
        await until(lambda: host.up.agent.uplink.connected)
        _, credentials = disk.load() or (None, None)
        assert credentials is not None
        verify(credentials.certificate, root.certificate, time.time_ns())
        await host.stop()

    asyncio.run(main())


async def expire(host: Host, manager: Host) -> Credentials:
    """The node's certificate is one of long ago from now on. Gives the one that it had."""
    own, good, root = (
        host.up.member,
        host.up._credential_source.credentials,
        manager.manager.cluster.root_ca,
    )
    key, begun = authority.make_key(random.Random(1).randbytes), time.time_ns() - 100 * 24 * HOUR
    old = authority.issue(
        root,
        authority.request(key),
        own.node,
        own.role,
        own.cluster,
        begun,
        90 * 24 * HOUR,
        7,
        (host.address,),
    )
    host.up._credential_source.replace(
        Credentials(old, authority.private_pem(key), root.certificate)
    )
    return good


def errors(caplog: pytest.LogCaptureFixture, step: str) -> int:
    return sum(
        record.levelname == "ERROR" and record.getMessage().startswith(step)
        for record in caplog.records
    )


@pytest.mark.parametrize("restarted", [False, True])
def test_a_worker_whose_certificate_has_expired_says_so_until_it_has_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, restarted: bool
) -> None:
    async def main() -> None:
        manager, worker = Host(tmp_path, 1, None), Host(tmp_path, 2, None)
        await manager.init()
        await worker.join(manager.listen, manager.manager.cluster.join_tokens.worker)
        await until(lambda: worker.up.agent.uplink.connected)
        assert (worker.up.membership.state, worker.up.membership.error) == ("active", "")
        good = await expire(worker, manager)
        again = worker if restarted else manager
        await again.stop()
        await again.resume()
        await until(lambda: worker.up.membership.state == "error")
        failed = len(caplog.records)
        await until(
            lambda: sum("session.failed" in r.getMessage() for r in caplog.records[failed:]) > 2
        )
        assert worker.up.membership.error == EXPIRED
        assert errors(caplog, "certificate.expired") == 1, "not at each attempt"

        worker.up._credential_source.replace(good)
        await until(lambda: worker.up.agent.uplink.connected)
        assert (worker.up.membership.state, worker.up.membership.error) == ("active", "")
        for host in (worker, manager):
            await host.stop()

    with caplog.at_level(logging.INFO):
        asyncio.run(main())


def test_a_sole_manager_whose_certificate_expires_while_it_runs_issues_itself_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_manager, "VALIDITY_CHECK", 0.3)

    async def main() -> None:
        host = Host(tmp_path, 1, None)
        await host.init()
        await until(lambda: host.up.agent.uplink.connected)
        await expire(host, host)
        old = host.up._credential_source.credentials
        await until(lambda: host.up._credential_source.credentials is not old)
        await until(lambda: host.up.agent.uplink.connected)
        assert host.up.membership.state == "active"
        await host.stop()

    asyncio.run(main())


def test_a_certificate_has_not_expired_any_more_when_the_clock_was_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ahead = 0

    async def main() -> None:
        nonlocal ahead
        async with swarm(lambda: virtual_time.clock() + ahead, workers=1) as cluster:
            await cluster.until(lambda: ready(cluster))
            cluster.is_reachable, uplink = False, cluster.members[1].uplink
            for times in (1, 2):
                ahead = 90 * 24 * HOUR
                assert not uplink.expired, "there is a session"
                await cluster.members[1].stop()
                cluster.members[1].start()
                await cluster.until(lambda: uplink.expired)
                await asyncio.sleep(60)
                assert errors(caplog, "certificate.expired") == times
                ahead = 0
                assert not uplink.expired
                cluster.is_reachable = True
                await cluster.until(lambda: uplink.connected)
                cluster.is_reachable = False

    virtual_time.run(main())


def test_a_new_root_arrives_everywhere() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=4) as cluster:
            await cluster.until(lambda: ready(cluster))
            old, tokens = cluster.manager.cluster.root_ca, cluster.manager.cluster.join_tokens
            await rotate(cluster)
            rotation = cluster.manager.cluster.rotation
            assert rotation is not None
            late = await cluster.join()
            assert late.credential_source.credentials.root == old.certificate, (
                "the old root is what nodes trust until all can do without"
            )
            new = rotation.root_ca.certificate
            await cluster.until(lambda: settled(cluster, new))
            for member in cluster.members:
                assert member.credential_source.credentials.root == new
                assert member.changes[-1] == member.role
            assert {
                cluster.manager.cluster.join_tokens.worker,
                cluster.manager.cluster.join_tokens.manager,
            }.isdisjoint((tokens.worker, tokens.manager))
            await cluster.join()
            await cluster.until(lambda: settled(cluster, new))

    virtual_time.run(main())


def test_a_rotation_waits_for_who_is_away() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=3, expiry=24 * HOUR) as cluster:
            await cluster.until(lambda: ready(cluster))
            away, gone = cluster.members[1], cluster.members[2]
            await away.stop()
            await gone.stop()
            await rotate(cluster)
            new = cluster.manager.cluster.rotation.root_ca.certificate  # type: ignore[union-attr]
            await asyncio.sleep(3600)
            assert cluster.manager.cluster.rotation is not None
            await cluster.manager.remove_node(gone.node, force=True)
            away.start()
            await cluster.until(lambda: settled(cluster, new))

    virtual_time.run(main())


def test_one_that_has_the_certificate_and_not_yet_the_root() -> None:
    """It was cut off between the two. Its trust in the old root is still good for what managers
    show, and then it catches up: before the next rotation can end."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=2, expiry=24 * HOUR) as cluster:
            await cluster.until(lambda: ready(cluster))
            late = cluster.members[1]
            old = late.credential_source.credentials.root
            await rotate(cluster)
            second = cluster.manager.cluster.rotation.root_ca.certificate  # type: ignore[union-attr]
            await cluster.until(
                lambda: (
                    cluster.manager.state.nodes[late.node].certificate.issuer == signer_id(second)
                )
            )
            await late.stop()
            await cluster.until(lambda: cluster.manager.cluster.rotation is None)
            assert late.credential_source.credentials.root == old
            await cluster.until(
                lambda: cluster.founder.credential_source.credentials.root == second
            )
            await rotate(cluster)
            third = cluster.manager.cluster.rotation.root_ca.certificate  # type: ignore[union-attr]
            await cluster.until(
                lambda: (
                    issuer_id(cluster.founder.credential_source.credentials.certificate)
                    == signer_id(third)
                )
            )
            await asyncio.sleep(600)
            assert cluster.manager.cluster.rotation is not None
            verify(
                cluster.founder.credential_source.credentials.certificate, old, virtual_time.clock()
            )
            late.start()
            await cluster.until(lambda: settled(cluster, third))

    virtual_time.run(main())


def test_a_rotation_in_place_of_another() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=2) as cluster:
            await cluster.until(lambda: ready(cluster))
            away = cluster.members[1]
            await away.stop()
            await rotate(cluster)
            given_up = cluster.manager.cluster.rotation.root_ca.certificate  # type: ignore[union-attr]
            await cluster.until(
                lambda: (
                    issuer_id(cluster.founder.credential_source.credentials.certificate)
                    == signer_id(given_up)
                )
            )
            await rotate(cluster)
            new = cluster.manager.cluster.rotation.root_ca.certificate  # type: ignore[union-attr]
            assert new != given_up
            away.start()
            await cluster.until(lambda: settled(cluster, new))
            given = authority.root(authority.make_key(cluster.entropy), virtual_time.clock(), 7)
            now = cluster.manager.cluster
            await cluster.manager.update_cluster(now.meta.version, now.spec, False, False, given)
            await cluster.until(lambda: settled(cluster, given.certificate))

    virtual_time.run(main())


def test_to_bring_the_present_root_ends_a_rotation() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=2) as cluster:
            await cluster.until(lambda: ready(cluster))
            away, root = cluster.members[1], cluster.manager.cluster.root_ca
            await away.stop()
            await rotate(cluster)
            await cluster.until(
                lambda: (
                    issuer_id(cluster.founder.credential_source.credentials.certificate)
                    != signer_id(root.certificate)
                )
            )
            now = cluster.manager.cluster
            await cluster.manager.update_cluster(now.meta.version, now.spec, False, False, root)
            away.start()
            await cluster.until(lambda: settled(cluster, root.certificate))

    virtual_time.run(main())


def test_a_certificate_follows_the_role() -> None:
    """A manager's names its address; that of a node which is to be none is not asked for by the
    node, but by the manager."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            await cluster.until(lambda: ready(cluster))
            worker = cluster.members[1]

            async def become(role: Role) -> None:
                node = cluster.manager.state.nodes[worker.node]
                await cluster.manager.update_node(
                    node.id, node.meta.version, msgspec.structs.replace(node.spec, role=role)
                )
                await cluster.until(lambda: worker.role == role)
                await cluster.until(lambda: ready(cluster))

            await become("manager")
            assert worker.changes == ["manager"]
            assert names(worker) == {worker.node, "swarm-manager", str(worker.address)}
            await cluster.join()
            await asyncio.sleep(10)
            assert worker.changes == ["manager"], "once is enough"

    virtual_time.run(main())


def names(member: Member) -> set[str]:
    found = (
        load(member.credential_source.credentials.certificate)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    return {str(name.value) for name in found}


def test_what_was_not_heard_is_said_again() -> None:
    """The request for a certificate is lost with the session: the next one, of which the manager
    learns nothing new, begins with the same notice."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            await cluster.until(lambda: ready(cluster))
            worker = cluster.members[1]
            await worker.stop()
            await rotate(cluster)
            for _ in range(2):
                session = await cluster.connect(worker)
                await session.send(
                    Hello(
                        node=worker.node,
                        description=NodeDescription(hostname=str(worker.address)),
                        data_path_address=str(worker.address),
                        trusted=worker.uplink.trusted,
                    )
                )
                while not isinstance(await session.receive(), Renew):
                    pass
                await session.close("lost")

    virtual_time.run(main())


def test_everybody_is_told_of_another_manager() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=2) as cluster:
            await cluster.until(lambda: ready(cluster))
            node = cluster.manager.state.nodes[cluster.members[1].node]
            at = (node.id, "127.0.0.12:2377")
            assert all(at not in member.managers for member in cluster.members)
            spec = msgspec.structs.replace(node.spec, role="manager")
            await cluster.store.commit(
                [Put(msgspec.structs.replace(node, spec=spec, manager_address=at[1]))]
            )
            await cluster.until(lambda: all(at in member.managers for member in cluster.members))

    virtual_time.run(main())


def test_a_removed_node_gets_no_certificate() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            await cluster.until(lambda: ready(cluster))
            worker = cluster.members[1]
            await cluster.manager.remove_node(worker.node, force=True)
            await cluster.until(lambda: not worker.uplink.connected)
            session = await cluster.connect(worker)
            await session.send(
                Hello(
                    node=worker.node, description=NodeDescription(), data_path_address="127.0.0.1"
                )
            )
            answer = await session.receive()
            assert isinstance(answer, Goodbye)
            assert "not part of the swarm" in answer.reason

    virtual_time.run(main())


# --- the same over real TLS, which looks at every chain for itself


def over_tls(test: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        async with swarm(time.time_ns, workers=2) as cluster:
            for member in cluster.members:
                await member.stop()
            async with cluster.listen():
                for member in cluster.members:
                    member.start()
                await cluster.until(lambda: ready(cluster))
                await test(cluster)
                for member in cluster.members:
                    await member.stop()

    asyncio.run(main())


def test_a_root_is_replaced_under_running_sessions() -> None:
    """Twice, with a node that misses the end of the first: it believes the listener although it has
    never heard of its root."""

    async def test(cluster: Swarm) -> None:
        late, first = cluster.members[1], cluster.manager.cluster.root_ca.certificate
        await rotate(cluster)
        second = cluster.manager.cluster.rotation.root_ca.certificate  # type: ignore[union-attr]
        await cluster.until(
            lambda: cluster.manager.state.nodes[late.node].certificate.issuer == signer_id(second)
        )
        await late.stop()
        await cluster.until(lambda: cluster.founder.credential_source.credentials.root == second)
        assert late.credential_source.credentials.root == first
        await rotate(cluster)
        third = cluster.manager.cluster.rotation.root_ca.certificate  # type: ignore[union-attr]
        await cluster.until(
            lambda: (
                issuer_id(cluster.founder.credential_source.credentials.certificate)
                == signer_id(third)
            )
        )
        late.start()
        await cluster.until(lambda: settled(cluster, third))
        assert all(not member.uplink.refused for member in cluster.members)

    over_tls(test)


def test_a_brought_root_under_running_sessions() -> None:
    async def test(cluster: Swarm) -> None:
        given = authority.root(authority.make_key(cluster.entropy), time.time_ns(), 7)
        now = cluster.manager.cluster
        await cluster.manager.update_cluster(now.meta.version, now.spec, False, False, given)
        await cluster.until(lambda: settled(cluster, given.certificate))
        await cluster.join()
        await cluster.until(lambda: ready(cluster))

    over_tls(test)
