"""The swarm's root is replaced: every node gets a certificate of the new root and trusts it, also a
node that was away. In virtual time, and over real TLS."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.support import virtual_time
from tests.support.certified import HOUR, Swarm, ready, rotate, settled, swarm
from weft.model.node import NodeDescription
from weft.pki import authority
from weft.pki.certificate import issuer_id, signer_id, verify
from weft.session.messages import Hello, Renew


def root_under_way(cluster: Swarm) -> str:
    rotation = cluster.manager.swarm.cluster.rotation
    assert rotation is not None
    return rotation.root_ca.certificate


def test_a_new_root_arrives_everywhere() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=4) as cluster:
            await cluster.until(lambda: ready(cluster))
            old, tokens = (
                cluster.manager.swarm.cluster.root_ca,
                await cluster.manager.swarm.join_tokens(),
            )
            await rotate(cluster)
            new = root_under_way(cluster)
            late = await cluster.join()
            assert late.credential_source.credentials.root == old.certificate, (
                "the old root is what nodes trust until all can do without"
            )
            await cluster.until(lambda: settled(cluster, new))
            for member in cluster.members:
                assert member.credential_source.credentials.root == new
                assert member.changes[-1] == member.role
            assert {
                (await cluster.manager.swarm.join_tokens()).worker,
                (await cluster.manager.swarm.join_tokens()).manager,
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
            new = root_under_way(cluster)
            await asyncio.sleep(3600)
            assert cluster.manager.swarm.cluster.rotation is not None
            await cluster.manager.swarm.remove_node(gone.node, force=True)
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
            second = root_under_way(cluster)
            await cluster.until(
                lambda: (
                    cluster.manager.swarm.state.nodes[late.node].certificate.issuer
                    == signer_id(second)
                )
            )
            await late.stop()
            await cluster.until(lambda: cluster.manager.swarm.cluster.rotation is None)
            assert late.credential_source.credentials.root == old
            await cluster.until(
                lambda: cluster.founder.credential_source.credentials.root == second
            )
            await rotate(cluster)
            third = root_under_way(cluster)
            await cluster.until(
                lambda: (
                    issuer_id(cluster.founder.credential_source.credentials.certificate)
                    == signer_id(third)
                )
            )
            await asyncio.sleep(600)
            assert cluster.manager.swarm.cluster.rotation is not None
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
            given_up = root_under_way(cluster)
            await cluster.until(
                lambda: (
                    issuer_id(cluster.founder.credential_source.credentials.certificate)
                    == signer_id(given_up)
                )
            )
            await rotate(cluster)
            new = root_under_way(cluster)
            assert new != given_up
            away.start()
            await cluster.until(lambda: settled(cluster, new))
            given = authority.root(authority.make_key(cluster.entropy), virtual_time.clock(), 7)
            now = cluster.manager.swarm.cluster
            await cluster.manager.swarm.update_cluster(
                now.meta.version, now.spec, False, False, given
            )
            await cluster.until(lambda: settled(cluster, given.certificate))

    virtual_time.run(main())


def test_to_bring_the_present_root_ends_a_rotation() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=2) as cluster:
            await cluster.until(lambda: ready(cluster))
            away = cluster.members[1]
            root = cluster.open_root(cluster.manager.swarm.cluster.root_ca)
            await away.stop()
            await rotate(cluster)
            await cluster.until(
                lambda: (
                    issuer_id(cluster.founder.credential_source.credentials.certificate)
                    != signer_id(root.certificate)
                )
            )
            now = cluster.manager.swarm.cluster
            await cluster.manager.swarm.update_cluster(
                now.meta.version, now.spec, False, False, root
            )
            away.start()
            await cluster.until(lambda: settled(cluster, root.certificate))

    virtual_time.run(main())


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
        late, first = cluster.members[1], cluster.manager.swarm.cluster.root_ca.certificate
        await rotate(cluster)
        second = root_under_way(cluster)
        await cluster.until(
            lambda: (
                cluster.manager.swarm.state.nodes[late.node].certificate.issuer == signer_id(second)
            )
        )
        await late.stop()
        await cluster.until(lambda: cluster.founder.credential_source.credentials.root == second)
        assert late.credential_source.credentials.root == first
        await rotate(cluster)
        third = root_under_way(cluster)
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
        now = cluster.manager.swarm.cluster
        await cluster.manager.swarm.update_cluster(now.meta.version, now.spec, False, False, given)
        await cluster.until(lambda: settled(cluster, given.certificate))
        await cluster.join()
        await cluster.until(lambda: ready(cluster))

    over_tls(test)
