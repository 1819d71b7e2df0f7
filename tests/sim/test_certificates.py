"""Certificates over months, in virtual time: they are renewed in time, expire, and follow a node's
role."""

import asyncio
import logging
import random
import re
import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from tests.support import virtual_time
from tests.support.certified import HOUR, Member, ready, rotate, settled, swarm
from tests.support.members import Host, until
from weft.agent.examination import certificate
from weft.daemon import opening
from weft.errors import InvalidArgument
from weft.manager.certificates import self_issued
from weft.model.meta import SECOND
from weft.model.node import NodeDescription, Role
from weft.model.state import Put
from weft.pki import authority
from weft.pki.certificate import holder, load, verify
from weft.session.credentials import EARLIEST, EXPIRED, LATEST
from weft.session.identity import Credentials, IdentityStore
from weft.session.messages import Goodbye, Hello


def life_passed(member: Member) -> float:
    """How much of its certificate's life is over, from 0 to 1."""
    certificate = load(member.credential_source.credentials.certificate)
    end = certificate.not_valid_after_utc.timestamp()
    return 1 - (end - virtual_time.clock() / SECOND) / 3600


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
            assert list(certificate(worker.uplink, virtual_time.clock())) == []
            await asyncio.sleep(0.95 * 3600)
            assert worker.credential_source.credentials is old
            [late] = certificate(worker.uplink, virtual_time.clock())
            assert re.fullmatch(r"it ends in \d+ s and was not renewed", late.cause)
            cluster.is_reachable = True
            await cluster.until(lambda: worker.credential_source.credentials is not old, 10)
            assert list(certificate(worker.uplink, virtual_time.clock())) == []

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
                    cluster.open_root,
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
                lambda: settled(cluster, cluster.manager.swarm.cluster.root_ca.certificate)
            )

    virtual_time.run(main())


def test_a_daemon_whose_certificate_expired_while_its_host_was_off_goes_on(tmp_path: Path) -> None:
    """The whole of it, on loopback: the sole manager's store, listener and agent."""

    async def main() -> None:
        host = Host(tmp_path, 1, None)
        await host.init()
        member, root = host.up.member, host.open_root(host.manager.swarm.cluster.root_ca)
        await host.stop()
        key, begun = (
            authority.make_key(random.Random(1).randbytes),
            time.time_ns() - 100 * 24 * HOUR,
        )
        expired = authority.issue(
            root,
            authority.request(key),
            authority.NodeCertificate(
                node=member.node,
                role="manager",
                cluster=member.cluster,
                begin=begun,
                lifetime=90 * 24 * HOUR,
                serial=7,
                addresses=(host.address,),
            ),
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
        manager.open_root(manager.manager.swarm.cluster.root_ca),
    )
    key, begun = authority.make_key(random.Random(1).randbytes), time.time_ns() - 100 * 24 * HOUR
    old = authority.issue(
        root,
        authority.request(key),
        authority.NodeCertificate(
            node=own.node,
            role=own.role,
            cluster=own.cluster,
            begin=begun,
            lifetime=90 * 24 * HOUR,
            serial=7,
            addresses=(host.address,),
        ),
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
        await worker.join(manager.listen, (await manager.manager.swarm.join_tokens()).worker)
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
    monkeypatch.setattr(opening, "VALIDITY_CHECK", 0.3)

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


def test_a_certificate_follows_the_role() -> None:
    """A manager's names its address; that of a node which is to be none is not asked for by the
    node, but by the manager."""

    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            await cluster.until(lambda: ready(cluster))
            worker = cluster.members[1]

            async def become(role: Role) -> None:
                node = cluster.manager.swarm.state.nodes[worker.node]
                await cluster.manager.swarm.update_node(
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


def test_everybody_is_told_of_another_manager() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=2) as cluster:
            await cluster.until(lambda: ready(cluster))
            node = cluster.manager.swarm.state.nodes[cluster.members[1].node]
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
            await cluster.manager.swarm.remove_node(worker.node, force=True)
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
