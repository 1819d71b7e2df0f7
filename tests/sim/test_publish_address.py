"""Ports that are published at one address of the hosts, in a whole swarm in virtual time: hosts are
told of the address, and tasks of two versions are reached by the address that they were started
with, also under another leader."""

from ipaddress import IPv4Address

import msgspec

from tests.sim.test_cluster import leader, play, web
from tests.simulation.cluster import SimCluster
from weft.model.addresses import Address
from weft.model.service import UpdateConfig
from weft.network.kernel_state import HOST
from weft.network.service_table import Published

LABEL = "weft.publish-address"
OLD, NEW = IPv4Address("192.0.2.10"), IPv4Address("192.0.2.11")


def published(cluster: SimCluster, host: str) -> dict[Address | None, int]:
    """Backends of port 8080 by address, as the mesh of the host knows them."""
    space = cluster.hosts[host].kernel.spaces.get(HOST)
    table = space.tables.get(("ip", "weft")) if space else None
    found = table.services.items() if table else ()
    return {it.address: len(s.backends) for it, s in found if isinstance(it, Published)}


def everywhere(cluster: SimCluster, expected: dict[Address | None, int]) -> bool:
    return all(published(cluster, host) == expected for host in cluster.hosts)


def test_all_hosts_publish_at_the_address_and_follow_the_tasks_to_another() -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await web(cluster, 3)
        await cluster.until(lambda: everywhere(cluster, {None: 3}), 60)
        spec = cluster.state.services[id].spec

        async def label(address: IPv4Address) -> None:
            new = msgspec.structs.replace(
                spec, labels={LABEL: str(address)}, update=UpdateConfig(delay=60 * 10**9)
            )
            version = cluster.state.services[id].meta.version
            await cluster.ask(lambda manager: manager.swarm.update_service(id, version, new))

        await label(OLD)
        await cluster.until(lambda: everywhere(cluster, {OLD: 1, None: 2}), 60)
        lost = leader(cluster)
        cluster.isolate(lost)
        await cluster.until(lambda: leader(cluster) not in ("", lost), 60)
        cluster.heal(lost)
        await cluster.until(lambda: everywhere(cluster, {OLD: 3}), 600)
        await label(NEW)
        await cluster.until(lambda: everywhere(cluster, {NEW: 3}), 600)

    play(3, 1, scene)
